"""The queue of a thread's runs, which estimates their memory and trains them together."""

import time
import traceback
from collections.abc import Callable, Sequence

import torch

from ..training import Data, Snapshot, TrainingRun, explain_alone, is_interrupt, is_out_of_memory, make_stacks, train
from .memory_limit import count_free_memory
from .report import TrainedStack
from .tasks import Task

MAX_RUNS = 256  # in the queue: larger stacks are hardly faster


class RunPool:
    """The tasks that wait for their run's training. ``note`` is called with each stack that has been trained."""

    def __init__(self, note: Callable[[TrainedStack], None]) -> None:
        self.note = note
        self._clear()

    def _clear(self) -> None:
        self.queue: dict[Task, TrainingRun] = {}
        self.datas: dict[object, list[Data]] = {}  # of the queued runs, by shape
        self.n_bytes = 0  # estimate for the queued runs and their training
        self.budget = 0  # the memory that was free when no run was queued

    def add(self, task: Task, run: TrainingRun) -> None:
        """Queue the run of a task. Equal data of several runs are kept once."""
        if not self.queue:
            self.budget = count_free_memory()
        self.n_bytes += count_bytes(run)
        run.data = self._deduplicate(run.data)
        if run.validation is not None:
            run.validation = self._deduplicate(run.validation)
        self.queue[task] = run

    def remove(self, tasks: Sequence[Task]) -> None:
        """Forget the runs of tasks."""
        for task in tasks:
            self.queue.pop(task, None)
        if not self.queue:
            self._clear()

    def has_room(self) -> bool:
        """Return whether another task may start: queued runs must leave enough memory for it, and for the training."""
        return not self.queue or (self.n_bytes < self.budget / 4 and len(self.queue) < MAX_RUNS)

    def train_all(self) -> list[Task]:
        """Train the queued runs, in place. The error of a run becomes its task's ``failure``.

        Returns the tasks. Raises interrupts.
        """
        queue = self.queue
        self._clear()
        waiting = {id(run): task for task, run in queue.items()}
        try:
            for stack in make_stacks(list(queue.values())):
                for run, failure in zip(stack, self._train_stack(stack), strict=True):
                    waiting.pop(id(run)).failure = failure
        except Exception as error:  # untrained runs must not count as trained
            if is_interrupt(error):
                raise
            for task in waiting.values():
                task.failure = error
        return list(queue)

    def _train_stack(self, runs: Sequence[TrainingRun], reason: str | None = None) -> list[Exception | None]:
        """Train runs as one stack, or, if that fails, in parts. Return the error of each run, or None."""
        before: list[Snapshot] = []
        try:
            before += [Snapshot(run) for run in runs if len(runs) > 1]
            self.train(runs, reason)
            return [None] * len(runs)
        except Exception as error:
            if is_interrupt(error):
                raise
            traceback.clear_frames(error.__traceback__)  # they keep the memory that the parts need
            failure = error
        if len(runs) == 1:
            return [failure]
        while before:
            before.pop().restore()
        size = len(runs) // 2 if is_out_of_memory(failure) else 1
        parts = [runs[start : start + size] for start in range(0, len(runs), size)]
        return [each for part in parts for each in self._train_stack(part, "its stack failed")]

    def train(self, runs: Sequence[TrainingRun], reason: str | None = None) -> None:
        """Train runs as one stack, in place, and report it. ``reason`` says why a single run is alone."""
        start = time.perf_counter()
        train(runs)
        seconds = time.perf_counter() - start
        reason = (explain_alone(runs[0]) or reason) if len(runs) == 1 else None
        self.note(TrainedStack(len(runs), seconds, runs[0].buffer.sizes, len(runs[0].data), reason))
        if any(run.interrupted for run in runs):
            raise KeyboardInterrupt  # which training has caught to keep the models

    def _deduplicate(self, data: Data) -> Data:
        """Return equal data of another queued run if there are any, otherwise the given data."""
        key = data.weight_mean, *((tensor.shape, tensor.dtype, tensor.device) for tensor in _list_tensors(data))
        known = self.datas.setdefault(key, [])
        for other in known:
            pairs = zip(_list_tensors(data), _list_tensors(other), strict=True)
            if all(torch.equal(mine, theirs) for mine, theirs in pairs):
                return other
        known.append(data)
        return data


def count_bytes(run: TrainingRun) -> int:
    """Return an estimate of the bytes of memory that a run takes, in the queue and in training."""
    datas = [data for data in (run.data, run.validation) if data is not None]
    n_bytes = sum(tensor.nbytes for data in datas for tensor in _list_tensors(data))
    # The task also has its samples in double precision, perhaps with a scaled copy, and a stack may copy its data.
    # Run, snapshot and stack have coefficients each, and there are gradients and the moments of the solver.
    return 5 * n_bytes + 8 * run.buffer.flat.nbytes


def _list_tensors(data: Data) -> list[torch.Tensor]:
    """Return the tensors of data. The tensors that differ between folds come first."""
    return [each for each in (data.targets, data.sample_weights, data.inputs) if isinstance(each, torch.Tensor)]
