"""`Checkpoint`: the path and the interval of a fit's checkpoints. The fit itself writes and reads the file."""

import os
import re
from contextvars import ContextVar
from numbers import Integral
from typing import Any


class Checkpoint:
    """Writes the state of a fit to a file, from which the same fit continues after a crash.

    Set it on a network as a callback of scikit-learn (since 1.9), or enter it as a context. If the process is killed,
    run the same code again: the fit continues from the last state written. The final model equals the model of an
    uninterrupted fit, bit for bit. After the fit has ended, the file holds the finished model, and the same code
    returns it without training.

    Parameters
    ----------
    path : str or path-like
        A file for one fit, or a folder in which each fit gets a file of its own, named after its data and parameters.
        A path that is an existing folder, or ends in a slash, is a folder. Searches need one. "~" is the home folder.
    every : int, default=1
        Number of epochs after which the state is written. The end of the fit is always written.

    Raises
    ------
    TypeError
        If ``path`` is not a path.
    ValueError
        If ``path`` is an address such as "s3://bucket/net.npz", or ``every`` is not a whole number of 1 or more.

    See Also
    --------
    ScratchNNClassifier : Its ``fit`` writes and reads the file.

    Notes
    -----
    ``fit`` raises a ValueError if the file belongs to other data or parameters, or with ``solver="lbfgs"``.
    ``partial_fit`` neither writes nor reads checkpoints.

    Inside `data_parallel`, each process has the checkpoint, with the same ``every``. Rank 0 reads and writes the file,
    which holds the state of all processes. After a crash, start as many processes, each with its earlier samples.

    Examples
    --------
    >>> import tempfile
    >>> from sklearn.datasets import load_iris
    >>> from scratchnn import Checkpoint, ScratchNNClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> classifier = ScratchNNClassifier((10,), random_state=0)
    >>> with tempfile.TemporaryDirectory() as folder, Checkpoint(f"{folder}/iris.npz", every=10):
    ...     first = classifier.fit(X, y).loss_
    ...     classifier.fit(X, y).loss_ == first  # after the end, this only reads the file
    True
    """

    def __init__(self, path: str | os.PathLike[str], every: int = 1) -> None:
        if not isinstance(path, str | os.PathLike):
            raise TypeError(f"path must be a file or a folder, got {path!r}. Pass for example 'net.npz'.")
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", os.fspath(path)):  # pathlib makes "s3:/bucket" of "s3://bucket"
            raise ValueError(
                f"path must be a file or a folder of this machine, got the address {path!r}. Write to a local folder, "
                "and copy its files there."
            )
        if not isinstance(every, Integral) or isinstance(every, bool) or every < 1:
            raise ValueError(f"every must be a whole number of epochs, 1 or more, got {every!r}. Pass every=10.")
        self.path: str | os.PathLike[str] = path
        self.every: int = int(every)

    def __repr__(self) -> str:
        return f"Checkpoint({os.fspath(self.path)!r}, every={self.every})"

    def __enter__(self) -> "Checkpoint":
        _entered.set((*_entered.get(), self))
        return self

    def __exit__(self, *error: object) -> None:
        _entered.set(_entered.get()[:-1])

    def _ignore(self, estimator: Any, context: Any) -> None:
        """Do nothing. scikit-learn requires these methods of a callback, but passes too little to them."""

    setup = teardown = on_fit_task_begin = on_fit_task_end = _ignore


_entered: ContextVar[tuple[Checkpoint, ...]] = ContextVar("entered", default=())


def find_checkpoint(estimator: Any) -> Checkpoint | None:
    """Return the checkpoint of an estimator's callbacks, or else of the innermost context; None if there is none."""
    own = [each for each in getattr(estimator, "_skl_callbacks", None) or [] if isinstance(each, Checkpoint)]
    if len(own) > 1:
        raise ValueError(f"set_callbacks takes one Checkpoint, got {own}.")
    checkpoint = own[0] if own else next(reversed(_entered.get()), None)
    if checkpoint is not None and estimator.solver == "lbfgs":
        raise ValueError(
            "solver must be 'adam' or 'sgd' with a Checkpoint, got 'lbfgs', whose search SciPy cannot resume. Set "
            "solver='adam', or fit without Checkpoint."
        )
    return checkpoint
