"""What training costs inside a fit or a search: seconds, steps, and what the operations of a step compute and move.

Peaks of the machine are beside it: of a large matrix product, of a copy, and of an operation that has nothing to do.
"""

import gc
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from common import finish_gpu_work, time_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from scratchnn.training.stack import Stack

CACHED_BYTES = 2**20  # what an operation touches counts as moved if it is more than this, which level-2 caches hold
PRODUCTS = ("mm", "bmm", "addmm", "addmm_", "baddbmm", "baddbmm_")


@dataclass
class Operations:
    """What operations did: how many they were, what they computed, and what they moved."""

    n_calls: int = 0
    n_flops: int = 0  # of matrix products
    n_bytes: int = 0  # read and written by operations on more than ``CACHED_BYTES``


class CountOperations(TorchDispatchMode):
    """A context that adds every operation of PyTorch inside it to ``operations``."""

    def __init__(self, operations: Operations) -> None:
        super().__init__()
        self.operations = operations

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        self.operations.n_calls += 1
        if not function.is_view:
            name = function.overloadpacket.__name__
            n_bytes = _count_touched(function, name, args, kwargs or {}, result)
            self.operations.n_bytes += n_bytes if n_bytes > CACHED_BYTES else 0
            if name in PRODUCTS:
                self.operations.n_flops += 2 * result.numel() * args[-2].shape[-1]  # the last two are the factors
        return result


def _count_touched(function: Any, name: str, args: Any, kwargs: Any, result: Any) -> int:
    """Return the bytes that an operation reads and writes, each tensor once for each."""
    if name == "index_select":  # it reads rows of a table, not all of it
        return 2 * _count_bytes(result)
    overwrites = name in ("zero_", "fill_", "copy_")
    read = written = 0
    named = {argument.name: argument for argument in function._schema.arguments}
    pairs = [*zip(function._schema.arguments, args, strict=False), *((named[key], kwargs[key]) for key in kwargs)]
    for argument, value in pairs:
        changes = argument.alias_info is not None and argument.alias_info.is_write
        size = _count_bytes(value)
        read += 0 if changes and (overwrites or argument.kwarg_only) else size  # ``out=`` is not read
        written += size if changes else 0
    returns_new = all(each.alias_info is None for each in function._schema.returns)
    return read + written + (_count_bytes(result) if returns_new else 0)


def _count_bytes(values: Any) -> int:
    tensors = [value for value in tree_leaves(values) if isinstance(value, torch.Tensor)]
    return sum(min(tensor.numel() * tensor.itemsize, tensor.untyped_storage().nbytes()) for tensor in tensors)


@dataclass
class Training:
    """The training of all stacks in a context. A step of a stack of ten models is ten steps."""

    seconds: float = 0.0
    n_steps: int = 0
    n_threads: int = 1
    operations: Operations = field(default_factory=Operations)


@contextmanager
def watch_training(count: bool = False) -> Iterator[Training]:
    """Give what training in the context costs. With ``count``, operations are counted too, which takes time."""
    training = Training()
    train = Stack.train_until_one_stops

    def train_watched(stack: Stack) -> Any:
        before = sum(run.history.n_updates for run in stack.runs)
        finish_gpu_work()
        start = time.perf_counter()
        with CountOperations(training.operations) if count else nullcontext():
            unfinished = train(stack)
        finish_gpu_work()
        training.seconds += time.perf_counter() - start
        training.n_steps += sum(run.history.n_updates for run in stack.runs) - before
        training.n_threads = torch.get_num_threads()
        return unfinished

    with mock.patch.object(Stack, "train_until_one_stops", train_watched):
        yield training


def measure_product(size: int, device: str = "cpu", dtype: torch.dtype = torch.float32, n_rounds: int = 7) -> float:
    """Return the floating-point operations per second of the product of two square matrices."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    result = torch.empty_like(left)
    n_products = 10 if device != "cpu" else 1
    seconds = _time_often(lambda: [torch.mm(left, right, out=result) for _ in range(n_products)], n_rounds)
    return n_products * 2 * size**3 / seconds


def measure_copy(n_values: int, n_rounds: int = 7) -> float:
    """Return the bytes per second, read and written, of a copy of float32 values."""
    values = torch.ones(n_values)
    target = torch.empty_like(values)
    return 2 * 4 * n_values / _time_often(lambda: target.copy_(values), n_rounds)


def _time_often(call: Callable[[], object], n_rounds: int) -> float:
    """Return the seconds of the fastest of some calls."""
    return min(time_call(call) for _ in range(n_rounds + 2))


def restart_peak() -> float:
    """Let the peak memory of this process start again. Return its present memory in MB, NaN where it is not known."""
    gc.collect()
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        return math.nan
    return _read_status("VmRSS")


def read_peak() -> float:
    """Return the peak memory of this process in MB since `restart_peak`, NaN where it is not known."""
    try:
        return _read_status("VmHWM")
    except OSError:
        return math.nan


def _read_status(name: str) -> float:
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))
