"""All exceptions and warnings of the package."""

import multiprocessing


class DivergenceError(ValueError):
    """The loss, the gradient or the coefficients of a network are not finite."""


class InUseError(ValueError):
    """Another fit uses the file of a checkpoint, in this process or in another one."""


class MissingDeviceError(ValueError):
    """PyTorch does not find the device given by a parameter."""


class RankError(RuntimeError):
    """Another process of `data_parallel` failed or ended."""


class TaskTimeoutError(multiprocessing.TimeoutError, TimeoutError):
    """A task of `fused_fits` took longer than the ``timeout`` of ``joblib.Parallel``, which raises either error."""


class UnavailableError(AttributeError, ValueError):
    """A parameter makes a method unavailable: AttributeError for ``hasattr``, ValueError as in MLPClassifier."""


class InconsistentVersionWarning(UserWarning):
    """An estimator was saved by another version of scratchnn than the one that loads it."""
