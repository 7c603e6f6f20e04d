"""A neural network written by hand on PyTorch tensors, as a scikit-learn classifier."""

from ._version import __version__ as __version__
from .checkpoint import Checkpoint
from .classifier import ScratchNNClassifier
from .classifier_cv import ScratchNNClassifierCV
from .display import LossCurveDisplay
from .fusion import fused_fits
from .parallel import data_parallel

__all__ = [
    "Checkpoint",
    "LossCurveDisplay",
    "ScratchNNClassifier",
    "ScratchNNClassifierCV",
    "data_parallel",
    "fused_fits",
]
