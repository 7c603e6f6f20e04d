"""A neural network written by hand on PyTorch tensors, as a scikit-learn classifier."""

from ._show_versions import show_versions
from ._version import __version__ as __version__
from .checkpoints import Checkpoint
from .classifier import ScratchNNClassifier
from .display import LossCurveDisplay
from .distributed import data_parallel
from .fusion import fused_fits
from .table_encoder import TableEncoder

__all__ = [
    "Checkpoint",
    "LossCurveDisplay",
    "ScratchNNClassifier",
    "TableEncoder",
    "data_parallel",
    "fused_fits",
    "show_versions",
]
