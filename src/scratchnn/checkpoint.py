"""`Checkpoint`, which says where and how often a fit writes its state. The fit itself writes and reads it."""

import os
from contextvars import ContextVar
from numbers import Integral
from typing import Any


class Checkpoint:
    """Writes the state of a fit to a file, from which the same fit continues after a crash.

    Set it on a network as a callback of scikit-learn (since 1.9), or enter it as a context. Run the same lines again
    after the process was killed, and the fit continues from the last state written. The final model equals the one of
    an uninterrupted fit, bit for bit. After the end, the file holds the finished model, and the same fit returns it
    at once.

    Parameters
    ----------
    path : str or path-like
        A file for one fit, or a folder in which each fit gets a file of its own, named after its data and parameters.
        A path that is an existing folder, or ends in a slash, is a folder. Searches need one.
    every : int, default=1
        Number of epochs after which the state is written. The end of the fit is always written.

    Raises
    ------
    TypeError
        If ``path`` is no path, or ``every`` no whole number.
    ValueError
        If ``every`` is less than 1.

    See Also
    --------
    ScratchNNClassifier : The network whose ``fit`` it is for.

    Notes
    -----
    The state before the last one is kept beside the file, with ".previous" at the end of its name. ``fit`` reads it if
    the file is damaged. ``fit`` raises a ValueError if the file belongs to other data or parameters, and with
    ``solver="lbfgs"``. ``partial_fit`` neither writes nor reads checkpoints.

    Inside `data_parallel` each process has the checkpoint, with the same ``every``. Rank 0 reads and writes the file,
    which holds the state of all processes: after a crash, start as many as before, each with the same rows.

    Examples
    --------
    >>> import tempfile
    >>> from sklearn.datasets import load_iris
    >>> from scratchnn import Checkpoint, ScratchNNClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> folder = tempfile.TemporaryDirectory()
    >>> classifier = ScratchNNClassifier((10,), random_state=0)
    >>> with Checkpoint(f"{folder.name}/iris.npz", every=10):
    ...     first = classifier.fit(X, y).loss_
    >>> with Checkpoint(f"{folder.name}/iris.npz", every=10):  # after the end, this only reads the file
    ...     classifier.fit(X, y).loss_ == first
    True
    >>> folder.cleanup()
    """

    def __init__(self, path: str | os.PathLike[str], every: int = 1) -> None:
        if not isinstance(path, str | os.PathLike):
            raise TypeError(f"path must be a file or a folder, got {path!r}. Pass for example 'net.npz'.")
        if not isinstance(every, Integral) or isinstance(every, bool):
            raise TypeError(f"every must be a whole number of epochs, got {every!r}. Pass for example every=10.")
        if every < 1:
            raise ValueError(f"every must be 1 epoch or more, got {every}. Pass for example every=10.")
        self.path: str | os.PathLike[str] = path
        self.every: int = int(every)

    def __repr__(self) -> str:
        return f"Checkpoint({os.fspath(self.path)!r}, every={self.every})"

    def __enter__(self) -> "Checkpoint":
        _entered.set((*_entered.get(), self))
        return self

    def __exit__(self, *error: object) -> None:
        _entered.set(_entered.get()[:-1])

    # scikit-learn wants these methods of a callback. They are not told enough of the training to do the work.

    def setup(self, estimator: Any, context: Any) -> None:
        """Do nothing."""

    def teardown(self, estimator: Any, context: Any) -> None:
        """Do nothing."""

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        """Do nothing."""

    def on_fit_task_end(self, estimator: Any, context: Any) -> None:
        """Do nothing."""


_entered: ContextVar[tuple[Checkpoint, ...]] = ContextVar("entered", default=())


def get_entered() -> Checkpoint | None:
    """Return the innermost `Checkpoint` whose context this thread is in, or None."""
    entered = _entered.get()
    return entered[-1] if entered else None
