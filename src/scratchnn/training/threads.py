"""How many threads PyTorch's operations use: one for small work or in a forked process, and never more than cores.

At the end of an operation, PyTorch's OpenMP threads wait for one another, spinning. If another process has the core of
one of them, they wait for a time slice of the system, some milliseconds. And they do not survive a fork: in the child,
an operation for several threads waits for ever.
"""

import ctypes
import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import pairwise
from typing import Any, TypeAlias

import torch
from joblib import cpu_count

# Multiply-adds, which take one core about as long as a time slice. A second core can save half of that at most; waiting
# for a core that is taken can lose as much in each of the step's operations.
MIN_PARALLEL_WORK = 2**25
VALUE_WORK = 32  # multiply-adds in the time that the passes over one value in memory take

Setter: TypeAlias = Callable[[int, int], int]

_local = threading.local()  # .block: the innermost `use_threads` that this thread is inside
_is_forked = False


def count_work(n_values: int, n_rows: int, sizes: tuple[int, ...]) -> int:
    """Return the multiply-adds of a forward pass over rows that hold ``n_values``, in layers of these sizes."""
    return n_values * (sizes[1] + VALUE_WORK) + n_rows * sum(before * after for before, after in pairwise(sizes[1:]))


class use_threads:
    """A context whose PyTorch operations use one thread, or all allowed ones from ``MIN_PARALLEL_WORK`` on.

    ``n_operations`` is the work of a step, or of the call, in multiply-adds. Allowed is the number that the calling
    thread had set when its outermost context began, or that of the cores which the process may use, if these are fewer.
    OpenMP's and MKL's functions set the number of this thread alone; ``torch.set_num_threads``, used where these are
    missing (on Windows), also changes the default of threads that use PyTorch for the first time meanwhile. A number
    that the user sets inside the context, in a callback for example, stays.
    """

    __slots__ = ("found", "mkl_found", "most", "n_operations", "number", "outer")

    def __init__(self, n_operations: float) -> None:
        self.n_operations = n_operations

    def __enter__(self) -> None:
        self.outer: use_threads | None = getattr(_local, "block", None)
        self.found = self.mkl_found = torch.get_num_threads()  # before setting: the first call in a thread resets it
        self.most: int = self.found if self.outer is None else self.outer.most
        is_large = self.n_operations >= MIN_PARALLEL_WORK and not _is_forked
        # Affinity and a container's quota, which PyTorch does not know, may change: they are asked for each time.
        self.number = min(self.most, cpu_count()) if is_large else 1
        if self.number != self.found:
            self.mkl_found = _set_number(self.number, self.number)
        _local.block = self

    def __exit__(self, *error: object) -> None:
        _local.block = self.outer
        if self.number == self.found or torch.get_num_threads() != self.number:
            return
        if self.outer is None or not _is_forked:  # the child's code in an outer context needs one thread, too
            _set_number(self.found, self.mkl_found)


def get_block() -> use_threads | None:
    """Return the innermost `use_threads` that this thread is inside."""
    return getattr(_local, "block", None)


def leave_blocks(outer: use_threads | None) -> list[use_threads]:
    """Leave the blocks that this thread is inside, up to ``outer``. Return them in the order to enter them again."""
    blocks: list[use_threads] = []
    while (block := get_block()) is not None and block is not outer:
        block.__exit__()
        blocks.insert(0, block)
    return blocks


def _set_for_all(number: int, mkl_number: int) -> int:
    torch.set_num_threads(number)
    return number


def _find_setter() -> Setter:
    """Return a function that sets the calling thread's numbers of threads, for OpenMP and for MKL.

    It returns MKL's number before (0: that of OpenMP). It calls functions of the libraries that PyTorch is linked to.
    If PyTorch uses other libraries, it is `_set_for_all`.
    """
    library = ctypes.PyDLL(torch._C.__file__)
    set_openmp = getattr(library, "omp_set_num_threads", None)
    set_mkl = getattr(library, "MKL_Set_Num_Threads_Local", None)
    if set_openmp is None or (set_mkl is None and torch.backends.mkl.is_available()):
        return _set_for_all
    set_openmp.restype = None
    found = torch.get_num_threads()
    set_openmp(found + 1)
    has_effect = torch.get_num_threads() == found + 1
    set_openmp(found)
    if not has_effect:
        return _set_for_all

    def set_own(number: int, mkl_number: int) -> int:
        set_openmp(number)
        return mkl_number if set_mkl is None else int(set_mkl(mkl_number))

    return set_own


_set_number = _find_setter()


class SharedContext:
    """A context that changes the process. Several threads may be inside at a time, and the last to leave restores it.

    In a forked process, only the thread that forked stays inside, as the others do not exist there.
    """

    def __init__(self, make: Callable[[], AbstractContextManager[Any, Any]]) -> None:
        self.make = make
        self.lock = threading.Lock()
        self.inside: list[int] = []  # a thread's identifier for each time that it entered
        self.context: AbstractContextManager[Any, Any] | None = None
        call_after_fork(self._forget_others)

    def __enter__(self) -> None:
        with self.lock:
            if not self.inside:
                self.context = self.make()
                self.context.__enter__()
            self.inside.append(threading.get_ident())

    def __exit__(self, *error: object) -> None:
        with self.lock:
            own = threading.get_ident()
            self.inside.remove(own if own in self.inside else self.inside[-1])
            self._restore()

    def _restore(self) -> None:
        if not self.inside and self.context is not None:
            self.context.__exit__(None, None, None)
            self.context = None

    def _forget_others(self) -> None:
        self.lock = threading.Lock()  # one of the others may have held it
        self.inside = [thread for thread in self.inside if thread == threading.get_ident()]
        self._restore()


def call_after_fork(function: Callable[[], None]) -> None:
    """Have a function called in every process that this one forks, on systems that can fork."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=function)


def _note_fork() -> None:
    global _is_forked
    _is_forked = True
    block: use_threads | None = getattr(_local, "block", None)
    if block is not None:
        _set_number(1, 1)
    while block is not None:
        block.number, block = 1, block.outer


call_after_fork(_note_fork)
