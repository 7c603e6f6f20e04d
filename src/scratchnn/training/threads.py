"""PyTorch's operations on one thread each, and settings that several threads share.

If PyTorch runs an operation on several threads, they wait for one another at its end. If another process occupies one
of the cores, each wait lasts a time slice of the system, some milliseconds, about ten times a step. After a fork, the
child has none of these threads, and an operation on several threads never ends. `run_parts` uses several cores.
"""

import ctypes
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any, TypeVar

import torch
from joblib import cpu_count

R = TypeVar("R")

_local = threading.local()  # .block: the outermost `one_thread` that this thread is inside


class one_thread:
    """A context whose PyTorch operations use one thread. It leaves the calling thread's number as before.

    OpenMP's and MKL's functions set the number of this thread alone; ``torch.set_num_threads``, used where these are
    missing (on Windows), also changes the default of threads that use PyTorch for the first time meanwhile. A number
    that the user sets inside the context, in a callback for example, stays.
    """

    __slots__ = ("found", "outer")

    def __enter__(self) -> None:
        self.outer: one_thread | None = getattr(_local, "block", None)
        self.found = torch.get_num_threads()  # before setting: the first call in a thread resets it
        if self.found != 1:
            _set_number(1)
        if self.outer is None:
            _local.block = self

    def __exit__(self, *error: object) -> None:
        if self.outer is None:
            _local.block = None
        if self.found != 1 and torch.get_num_threads() == 1:
            _set_number(self.found)


@contextmanager
def found_threads() -> Iterator[None]:
    """Within a `one_thread`, restore the earlier number of threads for code outside of scratchnn."""
    block: one_thread | None = getattr(_local, "block", None)
    if block is None:
        yield
        return
    block.__exit__()
    try:
        yield
    finally:
        block.__enter__()


def count_cores() -> int:
    """Return the number of cores for this thread: at most PyTorch's number of threads, and the cores of the process.

    PyTorch ignores affinity and a container's quota. Both may change, so they are read at each call.
    """
    block: one_thread | None = getattr(_local, "block", None)
    number = torch.get_num_threads() if block is None else block.found
    return number if number == 1 else min(number, cpu_count())


def _find_setter() -> Callable[[int], None]:
    """Return a function that sets the calling thread's number of threads.

    It calls functions of OpenMP and MKL that PyTorch is linked to. Where these have no effect, it is PyTorch's own.
    """
    library = ctypes.PyDLL(torch._C.__file__)
    set_openmp = getattr(library, "omp_set_num_threads", None)
    set_mkl = getattr(library, "MKL_Set_Num_Threads_Local", None)
    if set_openmp is None or (set_mkl is None and torch.backends.mkl.is_available()):
        return torch.set_num_threads
    found = torch.get_num_threads()
    set_openmp(found + 1)
    has_effect = torch.get_num_threads() == found + 1
    set_openmp(found)
    if not has_effect:
        return torch.set_num_threads

    def set_own(number: int) -> None:
        set_openmp(number)
        if set_mkl is not None:
            set_mkl(1 if number == 1 else 0)  # 0: as many as OpenMP, or as the process has set

    return set_own


_set_number = _find_setter()


@cache
def _get_helpers(number: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(number, "scratchnn-helper")


def run_parts(functions: Sequence[Callable[[], R]], n_cores: int) -> list[R]:
    """Return the results of the functions. The caller makes all calls that no helper has started.

    Helpers compute in inference mode, with one thread, and with the caller's autocast.
    """
    if min(len(functions), n_cores) < 2:
        return [function() for function in functions]
    is_cast, helpers = torch.is_autocast_enabled("cpu"), _get_helpers(n_cores - 1)
    try:
        futures = [helpers.submit(_help, function, is_cast) for function in functions[1:]]
    except RuntimeError:  # the interpreter is ending
        return [function() for function in functions]
    own: dict[int, R] = {}
    try:
        own[0] = functions[0]()
        for number in range(len(functions) - 1, 0, -1):  # from the last, as helpers begin with the first
            if futures[number - 1].cancel():
                own[number] = functions[number]()
        return [own[number] if number in own else futures[number - 1].result() for number in range(len(functions))]
    finally:
        for future in futures:
            future.cancel()


def _help(function: Callable[[], R], is_cast: bool) -> R:
    casting = torch.autocast("cpu", torch.bfloat16) if is_cast else nullcontext()
    with one_thread(), torch.inference_mode(), casting:
        return function()


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
    """Register a function that every forked process calls first, on systems that can fork."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=function)


call_after_fork(_get_helpers.cache_clear)  # the child has none of the threads
