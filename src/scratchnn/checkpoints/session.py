"""A fit with a checkpoint: it starts from the state that an earlier process has written, and writes its own."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch

from .._compat import warn_user
from .._version import __version__
from ..tables.summary import get_exchange
from ..training import EpochResult, TrainingRun
from .archive import Archive, Contents, open_archive
from .checkpoint import Checkpoint
from .fingerprint import Description, calc_name, find_differences
from .state import get_state, set_state

FORMAT = 2  # of the file; increased by each change that older versions cannot read


class Session:
    """The checkpoint of the fit with this ``description``, written after every ``every`` epochs.

    ``seed`` is the seed in the file, or else the one given. Raises ValueError if the file belongs to another fit.
    """

    def __init__(self, archive: Archive, every: int, description: Description, seed: int) -> None:
        self.archive, self.every, self.description, self.seed = archive, every, description, seed
        self.saved = archive.read()
        if self.saved is not None:
            self._check(self.saved.values)
            self.seed = self.saved.values["seed"]

    def restore(self, run: TrainingRun) -> bool:
        """Set the state of a run to that of the file, if there is one, in place. Return whether the run had ended."""
        if self.saved is None:
            return False
        arrays, values = self.saved
        here, there = run.buffer.flat.numel(), arrays["coefficients"].size  # other libraries may make other bins
        self._refuse(find_differences({"number of coefficients": here}, {"number of coefficients": there}))
        set_state(run, self.saved)
        self.saved = None
        return bool(values["has_ended"])

    def end_epoch(self, run: TrainingRun, result: EpochResult) -> None:
        """Write the state of a run if ``every`` epochs have passed, except after the last epoch."""
        if result.number % self.every == 0 and not result.is_last:
            self._write(run, result.get_buffer().flat, result.generator, has_ended=False)

    def end(self, run: TrainingRun) -> None:
        """Write the state of a run that has ended."""
        self._write(run, run.buffer.flat, run.generator, has_ended=True)

    def _write(self, run: TrainingRun, flat: torch.Tensor, generator: torch.Generator, *, has_ended: bool) -> None:
        arrays, values = get_state(run, flat, generator)
        values |= {"format": FORMAT, "fit": self.description, "seed": self.seed, "has_ended": has_ended}
        values |= {"scratchnn": __version__, "torch": str(torch.__version__), "numpy": np.__version__}
        self.archive.write(Contents(arrays, values))

    def _check(self, values: dict[str, Any]) -> None:
        """Raise ValueError if the file is not of this fit. Warn if it is of another version of the package."""
        if values.get("format") != FORMAT:
            raise ValueError(
                f"The checkpoint {self.archive.path!r} must have format {FORMAT}, got {values.get('format')}, written "
                "by another version of scratchnn, or in data_parallel. Resume it as it was written, or delete the file."
            )
        self._refuse(find_differences(self.description, values["fit"]))
        if values["scratchnn"] != __version__:
            warn_user(
                f"The checkpoint {self.archive.path!r} was written by scratchnn {values['scratchnn']}, and this is "
                f"{__version__}. Training resumes, but may not give the same bits."
            )

    def _refuse(self, differences: list[str]) -> None:
        if differences:
            raise ValueError(
                f"The checkpoint {self.archive.path!r} must be of the same data and parameters, but "
                f"{'; '.join(differences)}. To resume, set them as they were. To start again, delete the file, or "
                "give Checkpoint another path, or a folder, where each fit has its own file."
            )


@contextmanager
def open_session(checkpoint: Checkpoint, description: Description, seed: int) -> Iterator[Session]:
    """Open the checkpoint of a fit, for this fit alone. Raises ValueError if the file belongs to another fit."""
    exchange = get_exchange()
    open_own = partial(open_archive, os.fspath(checkpoint.path), calc_name(description))
    with open_own() if exchange is None else exchange.share_archive(open_own) as archive:
        yield Session(archive, checkpoint.every, description, seed)
