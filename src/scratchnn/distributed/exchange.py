"""The exchange between processes around training: parameters, errors, and the file of a checkpoint."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from ..checkpoints import Archive, Checkpoint, Contents, describe_value, find_checkpoint
from ..estimator.callbacks import get_callbacks
from ..training import trainer
from .connection import Connection

RANK_LOCAL_PARAMS = {"device", "verbose"}  # parameters that may differ between processes


class ProcessExchange:
    """The exchange of `tables.summary`, over a connection. ``train`` is the trainer that `data_parallel` has set."""

    def __init__(self, connection: Connection, train: Callable[..., None]) -> None:
        self.connection, self.train = connection, train
        self.rank, self.gather = connection.rank, connection.gather

    @contextmanager
    def guard(self, estimator: Any, method: str) -> Iterator[None]:
        """Check a call of an estimator's method, and end it in all processes if it fails in one of them."""
        connection = self.connection
        connection.check_owner()
        connection.has_failed = False
        try:
            self._check(estimator, method)
            yield
            if connection.group is not None:  # an interrupt in training closes the connection, and keeps the model
                connection.gather(None)
        except Exception as error:
            connection.announce(error)
            raise
        except BaseException:  # an interrupt, or the end of this process
            connection.close()
            raise

    @contextmanager
    def share_archive(self, open_archive: Callable[[], AbstractContextManager[Archive]]) -> Iterator["SharedArchive"]:
        """Open the file of a checkpoint in rank 0, for all processes."""
        with open_archive() if self.rank == 0 else nullcontext() as archive:
            yield SharedArchive(self.connection, archive)

    def _check(self, estimator: Any, method: str) -> None:
        """Raise ValueError if the call is not supported, or if other processes have other parameters."""
        if method != "fit":
            raise ValueError(f"{method} must not be used inside data_parallel, which supports fit only.")
        if trainer.get() != self.train:
            raise ValueError("fused_fits must not be used inside data_parallel, got a fit inside both.")
        if estimator.solver == "lbfgs":
            raise ValueError("solver must be 'adam' or 'sgd' inside data_parallel, got 'lbfgs'.")
        if estimator.scoring != "loss":
            raise ValueError(f"scoring must be 'loss' inside data_parallel, got {estimator.scoring!r}.")
        others = [each for each in get_callbacks(estimator) if not isinstance(each, Checkpoint)]
        if others:
            raise ValueError(f"set_callbacks takes only a Checkpoint inside data_parallel, got {others}.")
        checkpoint = find_checkpoint(estimator)
        own = {"warm_start with a fitted model": str(estimator.warm_start and hasattr(estimator, "coefs_"))}
        own["every of Checkpoint"] = "no Checkpoint" if checkpoint is None else str(checkpoint.every)
        for name, value in estimator.get_params(deep=False).items():
            if name not in RANK_LOCAL_PARAMS:
                own[name] = repr(describe_value(value))
        for rank, other in enumerate(self.gather(own)):
            for name in own:
                if other.get(name) != own[name]:
                    raise ValueError(
                        f"{name} must be the same in all processes of data_parallel, got {own[name]} in rank "
                        f"{self.rank} and {other.get(name)} in rank {rank}. Set it to one value."
                    )


class SharedArchive(Archive):
    """The file of a checkpoint that rank 0 reads and writes for all processes.

    The processes share the coefficients, but not the samples and generators, so the file describes all of them.
    """

    def __init__(self, connection: Connection, archive: Archive | None) -> None:
        self.connection, self.archive = connection, archive
        super().__init__(connection.gather("" if archive is None else archive.path)[0])

    def read(self) -> Contents | None:
        """Return the contents that this process has written; None if there is no file."""
        contents = self.connection.gather(None if self.archive is None else self.archive.read())[0]
        if contents is None:
            return None
        rank, size = self.connection.rank, self.connection.size
        values = contents.values.get("ranks", [contents.values])
        if len(values) != size:
            raise ValueError(
                f"The checkpoint {self.path!r} must be resumed by as many processes as have written it, "
                f"{len(values)}, got {size}. Start as many, or give Checkpoint another path."
            )
        generator = contents.arrays.get(f"generator {rank}", contents.arrays["generator"])
        return Contents({**contents.arrays, "generator": generator}, values[rank])

    def write(self, contents: Contents) -> None:
        """Write the contents of all processes, which call this function together."""
        generators, values = zip(*self.connection.gather((contents.arrays["generator"], contents.values)), strict=True)
        if self.archive is not None:
            arrays = {f"generator {rank}": each for rank, each in enumerate(generators)}
            # A process that fits alone refuses the file, as its own description of the fit has no such number.
            fit = {**contents.values["fit"], "number of processes": len(values)}
            self.archive.write(Contents(contents.arrays | arrays, {**contents.values, "fit": fit, "ranks": values}))
