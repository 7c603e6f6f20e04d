"""A fit with a checkpoint: it starts from the state that an earlier process has left, and leaves its own."""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from ..checkpoint import Checkpoint, get_entered
from ..training import ALONE, Epoch, Ranks, TrainingRun, failing_together
from ..training.progress import get_progress, set_progress
from .agreeing import check_checkpoints
from .archive import Archive, Contents, open_archive
from .callbacks import get_callbacks
from .compat import warn_user
from .fingerprint import Description, calc_name, describe_fit, find_differences
from .parameters import resolve_seed

if TYPE_CHECKING:
    from .fitting import Call, Tables

FORMAT = 1  # of the file; another number for each change that this module could not read


def find_checkpoint(estimator: Any) -> Checkpoint | None:
    """Return the checkpoint of an estimator's callbacks, or else of the innermost context; None if there is none.

    Raises
    ------
    ValueError
        If it has several, or a solver that cannot continue.
    """
    own = [callback for callback in get_callbacks(estimator) if isinstance(callback, Checkpoint)]
    if len(own) > 1:
        raise ValueError(f"set_callbacks takes one Checkpoint, got {own}. Keep one of them.")
    checkpoint = own[0] if own else get_entered()
    if checkpoint is not None and estimator.solver == "lbfgs":
        raise ValueError(
            "solver must be 'adam' or 'sgd' with a Checkpoint, got 'lbfgs', whose search scipy cannot continue. Set "
            "solver='adam', or fit without Checkpoint."
        )
    return checkpoint


class Session:
    """The checkpoint of one fit.

    Parameters
    ----------
    archive : Archive or None
        Its file. Of several processes that fit together, rank 0 has it, and the others have None.
    every : int
        Number of epochs after which it is written.
    description : dict
        The data and parameters of the fit.
    seed : int
        The seed of the fit, if the file names none.
    ranks : Ranks
        The processes that fit together.

    Raises
    ------
    ValueError
        If the file belongs to another fit.
    """

    def __init__(
        self, archive: Archive | None, every: int, description: Description, seed: int, ranks: Ranks = ALONE
    ) -> None:
        self.archive, self.every, self.description, self.seed = archive, every, description, seed
        found = None if archive is None else (archive.path, archive.read())
        self.path, self.saved = cast(tuple[str, Contents | None], ranks.broadcast(found))
        if self.saved is not None:
            self._check(self.saved.values)
            self.seed = self.saved.values["seed"]

    def restore(self, run: TrainingRun) -> bool:
        """Set the progress of a run, in place, to the one in the file, if there is one. Return whether it had ended.

        Raises
        ------
        ValueError
            If another penalty was chosen, or another network made, than before the file was written.
        """
        if self.saved is None:
            return False
        arrays, values = self.saved
        here, there = ({"alpha_": value} for value in (run.settings.alpha, values["alpha"]))
        shape = tuple(run.buffer.flat.shape)
        here["shape of all coefficients"], there["shape of all coefficients"] = shape, arrays["coefficients"].shape
        self._refuse(find_differences(here, there))
        set_progress(run, arrays, values)
        self.saved = None
        return bool(values["has_ended"])

    def end_epoch(self, run: TrainingRun, epoch: Epoch) -> None:
        """Write the state of a run that goes on, after every so many epochs."""
        if epoch.number % self.every == 0:
            self._write(run, epoch.get_buffer().flat, epoch.generator, has_ended=False)

    def end(self, run: TrainingRun) -> None:
        """Write the state of a run that has ended."""
        self._write(run, run.buffer.flat, run.generator, has_ended=True)

    def _write(self, run: TrainingRun, flat: torch.Tensor, generator: torch.Generator, *, has_ended: bool) -> None:
        arrays, values = get_progress(run, flat, generator)
        facts = {"format": FORMAT, **_list_versions(), "fit": self.description, "seed": self.seed}
        facts |= {"alpha": run.settings.alpha, "has_ended": has_ended}
        if self.archive is not None:
            self.archive.write(Contents(arrays, facts | values))

    def _check(self, values: dict[str, Any]) -> None:
        """Raise ValueError if the file is not of this fit. Warn if it is of another version of the package."""
        if values.get("format") != FORMAT:
            raise ValueError(
                f"The checkpoint {self.path!r} must have format {FORMAT}, got {values.get('format')}, which "
                "another version of scratchnn has written. Use that version, or delete the file to train anew."
            )
        self._refuse(find_differences(self.description, values["fit"]))
        here, there = _list_versions()["scratchnn"], values["scratchnn"]
        if here != there:
            warn_user(
                f"The checkpoint {self.path!r} was written by scratchnn {there}, and this is {here}. Training "
                "continues, and may not give the same bits."
            )

    def _refuse(self, differences: list[str]) -> None:
        if differences:
            raise ValueError(
                f"The checkpoint {self.path!r} must be of the same data and parameters, but "
                f"{'; '.join(differences)}. To continue, set them as they were. To train anew, delete the file, or "
                "give Checkpoint another path, or a folder, where each fit has its own file."
            )


@contextmanager
def open_session(call: "Call", tables: "Tables") -> Iterator[Session | None]:
    """Open the checkpoint of a call of `fit`, which nobody else may use meanwhile; None if it has none.

    Raises
    ------
    ValueError
        If it cannot have one, or if its file belongs to another fit or is in use.
    """
    with ExitStack() as files:
        yield _make_session(call, tables, files)


@failing_together
def _make_session(call: "Call", tables: "Tables", files: ExitStack) -> Session | None:
    """Return the checkpoint of a call; None if it has none. Its file is closed with ``files``."""
    checkpoint = None if call.incremental else find_checkpoint(call.estimator)
    check_checkpoints(None if checkpoint is None else checkpoint.every, call.ranks)
    if checkpoint is None:
        return None
    seed = call.ranks.broadcast(_find_seed(call))
    description = describe_fit(call, tables, seed)
    archive = None
    if call.ranks.rank == 0:
        archive = files.enter_context(open_archive(os.fspath(checkpoint.path), calc_name(description)))
    return Session(archive, checkpoint.every, description, seed, call.ranks)


def _find_seed(call: "Call") -> int:
    """Return the seed that the fit has without a checkpoint."""
    state = getattr(call.estimator, "_state", None) if call.resume else None
    return resolve_seed(call.estimator.random_state) if state is None else int(state.seed)


def _list_versions() -> dict[str, str]:
    package = sys.modules[__name__.partition(".")[0]]
    return {"scratchnn": package.__version__, "torch": str(torch.__version__), "numpy": np.__version__}
