"""The queued runs of a thread: the memory that they take, and how they are trained together."""

import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ..training import Data, Snapshot, TrainingRun, count_models, explain_alone, make_stacks, train
from ..training.loop import is_out_of_memory
from ..training.stopping import is_interrupt
from .memory_limit import count_free_memory
from .report import TrainedStack

MAX_RUNS = 256  # in the queue: larger stacks are hardly faster


@dataclass(eq=False)
class QueuedRun:
    """A run in the queue. ``failure`` is what its training raised."""

    run: TrainingRun
    failure: BaseException | None = None


class RunPool:
    """Runs that wait for their training. ``note`` is called with each stack that has been trained."""

    def __init__(self, note: Callable[[TrainedStack], None]) -> None:
        self.note = note
        self._clear()

    def _clear(self) -> None:
        self.queue: list[QueuedRun] = []
        self.datas: dict[object, list[Data]] = {}  # of the queued runs, by shape
        self.n_bytes = 0  # that the queued runs and their training take, about
        self.budget = 0  # the memory that was free when no run was queued

    def trains_alone(self, run: TrainingRun) -> bool:
        """Return whether a run cannot share a stack, so that it need not wait for others."""
        return explain_alone(run) is not None or count_models(run) == 1

    def add(self, run: TrainingRun) -> QueuedRun:
        """Queue a run. Data that another run has are not kept twice."""
        if not self.queue:
            self.budget = count_free_memory()
        self.n_bytes += count_bytes(run)
        run.data = self._deduplicate(run.data)
        if run.validation is not None:
            run.validation = self._deduplicate(run.validation)
        self.queue.append(QueuedRun(run))
        return self.queue[-1]

    def remove(self, runs: Sequence[TrainingRun | None]) -> None:
        """Forget runs."""
        ids = {id(run) for run in runs}
        self.queue = [entry for entry in self.queue if id(entry.run) not in ids]
        if not self.queue:
            self._clear()

    def has_room(self) -> bool:
        """Return whether another task may start: queued runs must leave enough memory for it, and for the training."""
        return self.n_bytes < self.budget / 4 and len(self.queue) < MAX_RUNS

    def train_all(self) -> None:
        """Train the queued runs, in place. What it raises for a run becomes its ``failure``; interrupts are raised."""
        entries = {id(entry.run): entry for entry in self.queue}
        self._clear()
        try:
            for stack in make_stacks([entry.run for entry in entries.values()]):
                self._train_stack([entries.pop(id(run)) for run in stack])
        except Exception as error:  # what was not trained must not pass for it
            if is_interrupt(error):
                raise
            for entry in entries.values():
                entry.failure = error

    def train_alone(self, run: TrainingRun, reason: str | None = None) -> None:
        """Train a single run, in place, and report it. ``reason`` says why it is alone."""
        self._train([run], reason)

    def _train_stack(self, entries: Sequence[QueuedRun], reason: str | None = None) -> None:
        """Train runs as one stack, or, if that fails, in parts, so that only the runs at fault fail."""
        runs = [entry.run for entry in entries]
        failure = self._try_to_train(runs, reason)
        if failure is None or len(entries) == 1:
            entries[0].failure = failure
            return
        size = len(entries) // 2 if is_out_of_memory(failure) else 1
        for start in range(0, len(entries), size):
            self._train_stack(entries[start : start + size], "its stack failed")

    def _try_to_train(self, runs: Sequence[TrainingRun], reason: str | None) -> Exception | None:
        """Train runs as one stack, and return None, or what it raised. A stack that fails is left as it was."""
        before: list[Snapshot] = []
        try:
            if len(runs) > 1:
                before = [Snapshot(run) for run in runs]
            self._train(runs, reason)
            return None
        except Exception as error:
            if is_interrupt(error):
                raise
            traceback.clear_frames(error.__traceback__)  # they keep the memory that the parts need
            failure = error
        for snapshot in before:
            snapshot.restore()
        return failure

    def _train(self, runs: Sequence[TrainingRun], reason: str | None) -> None:
        start = time.perf_counter()
        train(runs)
        seconds = time.perf_counter() - start
        reason = (explain_alone(runs[0]) or reason) if len(runs) == 1 else None
        self.note(TrainedStack(len(runs), seconds, runs[0].buffer.sizes, len(runs[0].data), reason))
        if any(run.interrupted for run in runs):
            raise KeyboardInterrupt  # training has taken it for the end of this stack

    def _deduplicate(self, data: Data) -> Data:
        """Return equal data of another queued run, or these."""
        key = data.weight_mean, *((tensor.shape, tensor.dtype, tensor.device) for tensor in _list_tensors(data))
        known = self.datas.setdefault(key, [])
        for other in known:
            pairs = zip(_list_tensors(data), _list_tensors(other), strict=True)
            if all(torch.equal(mine, theirs) for mine, theirs in pairs):
                return other
        known.append(data)
        return data


def count_bytes(run: TrainingRun) -> int:
    """Return about how many bytes of memory a run takes while it is queued, and then its training."""
    datas = [data for data in (run.data, run.validation) if data is not None]
    n_bytes = sum(tensor.nbytes for data in datas for tensor in _list_tensors(data))
    # The task has its samples in double precision too, perhaps once more scaled, and a stack may copy what it trains
    # on. Of the coefficients there are those of run, snapshot and stack, their gradients, and moments with copies.
    return 5 * n_bytes + 8 * run.buffer.flat.nbytes


def _list_tensors(data: Data) -> list[torch.Tensor]:
    """Return the tensors of data, those that differ between folds first."""
    return [each for each in (data.targets, data.sample_weights, data.inputs) if isinstance(each, torch.Tensor)]
