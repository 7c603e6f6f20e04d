"""Small steps on a CUDA device: a group of them is captured as a CUDA graph, and then launched as one operation.

To launch an operation takes the CPU some microseconds. A step of a small network has dozens of operations, which the
device computes faster than that.
"""

import threading
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

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

    works = True  # False once a capture has failed in this process

    def __init__(self, train: Train, generators: Sequence[torch.Generator]) -> None:
        self.train, self.generators = train, generators
        self.n_eager: Counter[object] = Counter()  # by shape
        self.graphs: dict[object, _Graph] = {}
        self.place: _Place | None = None  # that the graphs share, of which one runs at a time

    def __call__(self, group: Group, rates: Tensor) -> Tensor:
        """Train on a group. The result is valid until the next call."""
        shape = (rates.shape, *((name, tensor.shape) for name, tensor in _get_tensors(group).items()))
        if shape not in self.graphs and self.n_eager[shape] >= N_EAGER and CapturedSteps.works:
            self._try_to_capture(shape, group, rates)
        if shape in self.graphs:
            return self.graphs[shape].replay(group, rates)
        self.n_eager[shape] += 1
        return self.train(group, rates)

    def _try_to_capture(self, shape: object, group: Group, rates: Tensor) -> None:
        if self.place is None:
            with torch.cuda.device(rates.device):
                self.place = _Place(torch.cuda.graph_pool_handle(), torch.cuda.Stream())
        try:
            self.graphs[shape] = _Graph(self.train, group, rates, self.generators, self.place)
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:
            CapturedSteps.works = False
            message = f"CUDA graphs do not work in this process, so small steps take longer. The error was: {error}"
            warnings.warn(message, RuntimeWarning, stacklevel=2)


class _Place(NamedTuple):
    """Where graphs are captured. Those with the same memory need the same stream."""

    pool: Any
    stream: Any


class _Graph:
    """The operations that train on a group, with memory of their own for its rows and rates."""

    def __init__(
        self, train: Train, group: Group, rates: Tensor, generators: Sequence[torch.Generator], place: _Place
    ) -> None:
        if not group.is_whole:
            copies: dict[str, Any] = {name: tensor.clone() for name, tensor in _get_tensors(group).items()}
            group = group._replace(rows=group.rows._replace(**copies))
        self.tensors, self.rates = _get_tensors(group), rates.clone()
        self.graph = torch.cuda.CUDAGraph()
        for generator in generators:
            self.graph.register_generator_state(generator)
        capture = torch.cuda.graph(self.graph, *place, capture_error_mode="thread_local")
        with _one_capture, torch.cuda.device(rates.device), capture:
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
