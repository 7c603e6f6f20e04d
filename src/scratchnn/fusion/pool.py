"""The runs that wait for their training: what they hold in memory, and how they are trained together."""

import math
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import cast

import torch

from ..training import (
    Data,
    Snapshot,
    TrainingRun,
    count_device_memory,
    explain_alone,
    is_out_of_memory,
    make_stacks,
    train,
)
from ..training.threads import use_threads
from .memory import count_memory
from .report import FusionReport, TrainedStack

MEMORY_LIFE = 0.01  # seconds for which a figure of the free memory holds, as reading it takes longer than many a task


@dataclass(eq=False)
class WaitingRun:
    """A run that has been handed in. ``failure`` is what its training raised.

    ``context`` holds the context variables of the task, such as `np.errstate`.
    """

    run: TrainingRun
    failure: BaseException | None = None
    context: Context = field(default_factory=copy_context)


class RunPool:
    """Runs that wait for their training.

    Parameters
    ----------
    report : FusionReport
        Gets each stack that has been trained.
    say : callable or None
        Prints a line for each stack, if there is one.
    n_threads : int
        How many threads of PyTorch training may use.
    """

    def __init__(self, report: FusionReport, say: Callable[[object], None] | None, n_threads: int) -> None:
        self.report, self.say, self.n_threads = report, say, n_threads
        self.budget = 0  # the memory that was left when no run waited
        self.n_free, self.read_at = 0, -math.inf  # what was left when it was last read, and when that was
        self.clear()

    def clear(self) -> None:
        """Forget all runs."""
        self.waiting: list[WaitingRun] = []
        self.datas: dict[object, list[Data]] = {}  # of the waiting runs, by shape
        self.n_bytes = 0  # of the CPU's memory that the waiting runs and their training take, about
        self.on_devices: Counter[torch.device] = Counter()  # bytes that the waiting runs hold on other devices
        self.is_short = False  # of memory: those that wait are tried again when other tasks have ended

    def add(self, run: TrainingRun) -> WaitingRun:
        """Let a run wait. Data that another run has are not kept twice."""
        self.n_bytes += count_bytes(run)
        run.data = self._deduplicate(run.data)
        if run.validation is not None:
            run.validation = self._deduplicate(run.validation)
        if not run.buffer.flat.is_cpu:
            self.on_devices[run.buffer.flat.device] += run.buffer.flat.nbytes
        self.waiting.append(WaitingRun(run))
        return self.waiting[-1]

    def remove(self, entry: WaitingRun) -> None:
        """Forget a run."""
        self.waiting = [other for other in self.waiting if other is not entry]
        if not self.waiting:
            self.clear()

    def has_room(self) -> bool:
        """Return whether another task may begin: those that wait must leave enough for it, and for the training."""
        now = time.monotonic()
        if now - self.read_at > MEMORY_LIFE:
            self.n_free, self.read_at = count_memory(), now
        if not self.waiting:
            self.budget = self.n_free
        n_seen = self.budget - self.n_free  # what tasks really hold, where it can be seen
        if self.is_short or max(self.n_bytes, n_seen) >= self.budget / 4:
            return False
        # What waits there is missing from the free memory already.
        return all(n_bytes < count_device_memory(device) / 3 for device, n_bytes in self.on_devices.items())

    def train(self, runs: Sequence[TrainingRun], alone: str | None = None) -> None:
        """Train runs as one stack, in place, and report it. ``alone`` says why, if it is a single run."""
        start = time.perf_counter()
        with use_threads(0, most=self.n_threads):
            train(runs)
        seconds = time.perf_counter() - start
        self.note_stack(TrainedStack(len(runs), seconds, runs[0].buffer.sizes, len(runs[0].data.targets), alone))

    def note_stack(self, stack: TrainedStack) -> None:
        """Report what has been trained."""
        self.report.stacks.append(stack)
        if self.say is not None:
            self.say(stack)

    def note(self, text: str) -> None:
        """Report what was not done, once."""
        if text not in self.report.notes:
            self.report.notes.append(text)
            if self.say is not None:
                self.say(text)

    def take(self) -> list[WaitingRun]:
        """Return the runs that wait, and forget them."""
        entries = self.waiting
        self.clear()
        return entries

    def train_taken(self, entries: Sequence[WaitingRun]) -> None:
        """Train runs that were taken, in place. What one of them raises is its ``failure``."""
        untrained = {id(entry.run): entry for entry in entries}
        try:
            for stack in make_stacks([entry.run for entry in entries]):
                if not all(run.interrupted for run in stack):  # nobody waits for them any more
                    self._train_stack([untrained[id(run)] for run in stack], explain_alone(stack[0]), len(entries) > 1)
                for run in stack:
                    del untrained[id(run)]
        except BaseException as error:  # what was not trained must not pass for it
            for entry in untrained.values():
                entry.failure = error
            if not isinstance(error, Exception):
                raise

    def keep_short(self, entries: Sequence[WaitingRun]) -> None:
        """Let those that lacked memory wait, except the first of them if all did: one that fails makes room."""
        short = [entry for entry in entries if entry.failure is not None and is_out_of_memory(entry.failure)]
        short = short[1:] if len(short) == len(entries) else short
        for entry in short:
            entry.failure = None
        self.waiting = short + self.waiting
        self.is_short = bool(short)

    def _train_stack(self, entries: Sequence[WaitingRun], alone: str | None, is_tried_again: bool) -> None:
        """Train runs as one stack, or, if that fails, in parts, so that those at fault fail alone."""
        runs = [entry.run for entry in entries]
        failure = entries[0].context.run(self._try_to_train, runs, alone, is_tried_again)
        if failure is None or len(entries) == 1:
            entries[0].failure = failure
            return
        size = len(entries) // 2 if is_out_of_memory(failure) else 1
        for start in range(0, len(entries), size):
            part = entries[start : start + size]
            self._train_stack(part, "its stack failed" if len(part) == 1 else None, is_tried_again)

    def _try_to_train(self, runs: Sequence[TrainingRun], alone: str | None, is_tried_again: bool) -> Exception | None:
        """Train runs as one stack, and return None, or what it raised, which then leaves the runs as they were."""
        before: list[Snapshot] = []
        try:
            if is_tried_again:
                before = [Snapshot(run) for run in runs]
            self.train(runs, alone)
            return None
        except Exception as error:
            traceback.clear_frames(error.__traceback__)  # they keep the memory that the next to be tried need
            failure = error
        for snapshot in before:
            snapshot.restore()
        return failure

    def _deduplicate(self, data: Data) -> Data:
        """Return equal data of another waiting run, or these."""
        if not isinstance(data.inputs, torch.Tensor):
            return data
        inputs = data.inputs
        key = (
            inputs.shape,
            inputs.dtype,
            inputs.device,
            data.targets.shape,
            data.sample_weights is None,
            data.weight_mean,
        )
        known = self.datas.setdefault(key, [])
        for other in known:
            if (
                torch.equal(other.targets, data.targets)
                and (
                    data.sample_weights is None
                    or torch.equal(cast(torch.Tensor, other.sample_weights), data.sample_weights)
                )
                and torch.equal(cast(torch.Tensor, other.inputs), inputs)
            ):
                return other
        known.append(data)
        for tensor in _list_tensors(data):
            if not tensor.is_cpu:
                self.on_devices[tensor.device] += tensor.nbytes
        return data


def count_bytes(run: TrainingRun) -> int:
    """Return about how many bytes of the CPU's memory a run takes while it waits, and then its training."""
    datas = [data for data in (run.data, run.validation) if data is not None]
    n_bytes = sum(tensor.nbytes for data in datas for tensor in _list_tensors(data) if tensor.is_cpu)
    # The task has its rows in double precision too, perhaps once more scaled, and a stack may copy what it trains on.
    # Of the coefficients there are those of run, snapshot and stack, their gradients, and moments with copies.
    return 5 * n_bytes + (8 * run.buffer.flat.nbytes if run.buffer.flat.is_cpu else 0)


def _list_tensors(data: Data) -> list[torch.Tensor]:
    return [each for each in (data.inputs, data.targets, data.sample_weights) if isinstance(each, torch.Tensor)]
