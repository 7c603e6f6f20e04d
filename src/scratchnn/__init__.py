"""A neural network written by hand on PyTorch tensors, as a scikit-learn classifier."""

from ._version import __version__ as __version__
from .classifier import ScratchNNClassifier
from .classifier_cv import ScratchNNClassifierCV
from .fusion import fused_fits

__all__ = ["ScratchNNClassifier", "ScratchNNClassifierCV", "fused_fits"]
