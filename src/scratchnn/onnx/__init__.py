"""Fitted networks and encoders as ONNX models, by skl2onnx: importing this package registers the converters.

After ``import scratchnn.onnx``, ``skl2onnx.to_onnx`` converts `ScratchNNClassifier` and `TableEncoder`, alone and in
pipelines. The graph repeats the steps of ``predict`` and ``predict_proba``: it encodes categories and missing values,
scales columns in double precision, adds bins, and applies the layers in the precision of ``coefs_``.
"""

try:
    import skl2onnx
except ImportError as error:
    raise ImportError(
        f"scratchnn.onnx needs skl2onnx, which cannot be imported ({error}). Install it: pip install skl2onnx "
        "onnxruntime"
    ) from error

from ..classifier import ScratchNNClassifier
from ..table_encoder import TableEncoder
from .converter import OPTIONS, calc_shapes, convert, parse
from .encoder_graph import calc_encoder_shapes, convert_encoder

__all__: list[str] = []

skl2onnx.update_registered_converter(
    ScratchNNClassifier, "ScratchNNClassifier", calc_shapes, convert, parser=parse, options=OPTIONS
)
skl2onnx.update_registered_converter(TableEncoder, "ScratchNNTableEncoder", calc_encoder_shapes, convert_encoder)
