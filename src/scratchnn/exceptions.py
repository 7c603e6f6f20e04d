"""The package's own warnings."""


class InconsistentVersionWarning(UserWarning):
    """The file of an estimator was written by another version of scratchnn than the one that loads it."""
