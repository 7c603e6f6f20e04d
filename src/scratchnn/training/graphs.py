"""Small steps on a CUDA device: a group of them is captured as a CUDA graph, and then launched as one operation.

To launch an operation takes the CPU some microseconds. A step of a small network has dozens of operations, which the
device computes faster than that.
"""

import threading
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from .batches import Group
from .run import TrainingRun

MOST_WORK = 2**32  # multiply-adds of a step that keep a device busy for longer than its launches take
N_EAGER = 2  # times that a group is computed before it is captured, which takes about as long

_one_capture = threading.Lock()  # PyTorch allows no more in a process

Train = Callable[[Group, Tensor], Tensor]


def can_capture(runs: Sequence[TrainingRun]) -> bool:
    """Return whether the steps of runs that train together can be captured, and gain by it."""
    run = runs[0]
    if run.buffer.flat.device.type != "cuda" or run.joint is not None or not isinstance(run.data.indeps, Tensor):
        return False
    return not callable(run.settings.loss) and len(runs) * run.count_work() < MOST_WORK


class CapturedSteps:
    """Trains on groups of minibatches, and captures the steps of groups whose shape comes again and again.

    Parameters
    ----------
    train : callable
        Trains on a group with learning rates, (n_steps, models, 1), and returns losses, (models,). It changes only
        tensors that live as long as this object, and does not wait for the device.
    generators : list of torch.Generator
        Generators of the device that it draws from.
    """

    works = True  # False once a capture has failed in this process for another reason than memory

    def __init__(self, train: Train, generators: Sequence[torch.Generator]) -> None:
        self.train, self.generators = train, generators
        self.n_eager: Counter[object] = Counter()  # by shape
        self.graphs: dict[object, _Graph] = {}
        self.pool: Any = None  # memory that the graphs, of which one runs at a time, share
        self.has_memory = True  # for more graphs

    def __call__(self, group: Group, rates: Tensor) -> Tensor:
        """Train on a group. The result is valid until the next call."""
        shape = (rates.shape, *((name, tensor.shape) for name, tensor in _get_tensors(group).items()))
        is_due = shape not in self.graphs and self.n_eager[shape] >= N_EAGER
        if is_due and self.has_memory and CapturedSteps.works:
            self._try_to_capture(shape, group, rates)
        if shape in self.graphs:
            return self.graphs[shape].replay(group, rates)
        self.n_eager[shape] += 1
        return self.train(group, rates)

    def _try_to_capture(self, shape: object, group: Group, rates: Tensor) -> None:
        """Capture the steps of a group, which computes nothing. If they cannot be captured, note it."""
        if self.pool is None:
            self.pool = torch.cuda.graph_pool_handle()
        try:
            self.graphs[shape] = _Graph(self.train, group, rates, self.generators, self.pool)
        except RuntimeError as error:
            reason = error.__context__ or error  # the end of a capture that has failed raises another error
            if isinstance(reason, torch.cuda.OutOfMemoryError):
                self.has_memory = False
                return
            CapturedSteps.works = False
            message = f"CUDA graphs do not work in this process, so small steps take longer. The error was: {reason}"
            warnings.warn(message, RuntimeWarning, stacklevel=2)


@cache
def _get_stream(device: torch.device) -> Any:
    """Return the stream of all captures on a device. CUDA's libraries keep memory for each stream that they see."""
    return torch.cuda.Stream(device)


class _Graph:
    """The operations that train on a group, with memory of their own for its rows and rates."""

    def __init__(
        self, train: Train, group: Group, rates: Tensor, generators: Sequence[torch.Generator], pool: Any
    ) -> None:
        if not group.is_whole:
            copies: dict[str, Any] = {name: tensor.clone() for name, tensor in _get_tensors(group).items()}
            group = group._replace(rows=group.rows._replace(**copies))
        self.tensors, self.rates = _get_tensors(group), rates.clone()
        self.graph = torch.cuda.CUDAGraph()
        for generator in generators:
            self.graph.register_generator_state(generator)
        device = rates.device
        capture = torch.cuda.graph(self.graph, pool, _get_stream(device), capture_error_mode="thread_local")
        # The end of a capture that has failed does not restore the stream.
        with _one_capture, torch.cuda.device(device), torch.cuda.stream(torch.cuda.current_stream(device)), capture:
            self.result = train(group, self.rates)  # records, and computes nothing

    def replay(self, group: Group, rates: Tensor) -> Tensor:
        """Train on a group of the same shape, with other rates."""
        if not group.is_whole:
            for name, tensor in _get_tensors(group).items():
                self.tensors[name].copy_(tensor)
        self.rates.copy_(rates)
        self.graph.replay()
        return self.result


def _get_tensors(group: Group) -> dict[str, Tensor]:
    """Return the tensors of a group's rows, by their names in `Batch`."""
    return {name: value for name, value in group.rows._asdict().items() if isinstance(value, Tensor)}
