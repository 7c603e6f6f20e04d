"""Training of runs: one alone, or several in stacks."""

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from copy import deepcopy
from itertools import chain

import torch
from torch import Tensor

from .grouping import make_stacks
from .lbfgs import train_lbfgs
from .precision import use_precision
from .run import TrainingRun
from .stack import Stack
from .threads import one_thread

trainer: ContextVar[Callable[[TrainingRun], None] | None] = ContextVar("trainer", default=None)


def train_run(run: TrainingRun) -> None:
    """Train one run, in place: with the ``trainer`` of this context if there is one, else alone."""
    train_with = trainer.get()
    if train_with is None:
        train([run])
    else:
        train_with(run)


def train(runs: Sequence[TrainingRun]) -> None:
    """Train the runs, in place, each until its own rule stops it.

    The runs must have one shape: the same sizes of layers and data, and equal `Hyperparameters`. Numbers may differ,
    except ``batch_size`` and Adam's betas and epsilon. An interrupt (Ctrl-C) ends all runs, which keep their current
    coefficients. The error of a single run is stored in its ``error``.
    """
    with (
        one_thread(),
        use_precision(runs[0].hyperparameters.precision, runs[0].buffer.flat.device),
        torch.inference_mode(),
    ):
        if runs[0].hyperparameters.solver == "lbfgs":
            for run in runs:
                train_lbfgs(run)
            return
        # Sparse and memory-mapped samples are taken for one model at a time, so these runs train one by one.
        stacks = [list(runs)] if all(isinstance(run.data.inputs, Tensor) for run in runs) else [[run] for run in runs]
        while stacks:
            stack = stacks.pop()
            stacks += make_stacks(Stack(stack).train_until_one_stops())
            if stack[0].interrupted:
                for run in chain(*stacks):
                    run.interrupted = True
                return


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out. PyTorch raises a RuntimeError for memory of the CPU."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    signs = ("DefaultCPUAllocator", "std::bad_alloc", "can't allocate memory", "Cannot allocate memory")
    return isinstance(error, RuntimeError | OSError) and any(sign in str(error) for sign in signs)


class Snapshot:
    """The state of a run before training, without its data, which training does not change."""

    def __init__(self, run: TrainingRun) -> None:
        self.run, self.flat, self.drawn = run, run.buffer.flat.clone(), run.generator.get_state()
        self.fields = {
            name: deepcopy(getattr(run, name))
            for name in ("solver_state", "history", "best_flat", "n_epochs", "warning", "error")
        }

    def restore(self) -> None:
        """Undo the training, in place."""
        self.run.buffer.flat.copy_(self.flat)
        self.run.generator.set_state(self.drawn)
        for name, value in self.fields.items():
            setattr(self.run, name, value)
