"""What to do when memory runs out: train the runs of a stack in smaller ones."""

import traceback
from collections.abc import Sequence
from copy import deepcopy

import torch

from .loop import train
from .run import TrainingRun


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out. PyTorch raises a RuntimeError for memory of the CPU."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    signs = ("DefaultCPUAllocator", "std::bad_alloc", "can't allocate memory", "Cannot allocate memory")
    return isinstance(error, RuntimeError | OSError) and any(sign in str(error) for sign in signs)


class Snapshot:
    """A run as it was before training, except its data, which training does not change."""

    def __init__(self, run: TrainingRun) -> None:
        self.run, self.flat, self.drawn = run, run.buffer.flat.clone(), run.generator.get_state()
        self.fields = {
            name: deepcopy(getattr(run, name))
            for name in ("solver_state", "history", "best_flat", "n_epochs", "warning", "error")
        }

    def restore(self) -> None:
        """Undo, in place, what training did."""
        self.run.buffer.flat.copy_(self.flat)
        self.run.generator.set_state(self.drawn)
        for name, value in self.fields.items():
            setattr(self.run, name, value)


def train_in_memory(runs: Sequence[TrainingRun]) -> None:
    """Train the runs, in place, as one stack, or in halves of it for as long as memory runs out.

    Raises
    ------
    MemoryError or torch.cuda.OutOfMemoryError
        If memory does not suffice for a single run.
    """
    before: list[Snapshot] = []
    try:
        if len(runs) > 1:
            before = [Snapshot(run) for run in runs]
        train(runs)
        return
    except Exception as error:
        if len(runs) == 1 or not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)  # they keep the memory that the halves need
    for snapshot in before:
        snapshot.restore()
    del before
    half = len(runs) // 2
    train_in_memory(runs[:half])
    train_in_memory(runs[half:])
