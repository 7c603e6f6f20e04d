"""A neural network written by hand on PyTorch tensors, as a scikit-learn classifier."""

from .classifier import ScratchNNClassifier

__all__ = ["ScratchNNClassifier"]
__version__ = "0.1.0"
