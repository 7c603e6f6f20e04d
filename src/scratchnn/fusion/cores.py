"""A core for each worker of a machine, where there are as many workers as cores.

The threads of a worker's tasks take turns. Where other workers keep all cores busy, too, the system starts each thread
on any of them, and the turn waits until the time slice of another worker ends: a fused search takes a fifth longer.
"""

import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


@contextmanager
def use_own_core(n_workers: int) -> Iterator[None]:
    """Keep the calling thread, and threads that it starts, on a core that no other worker keeps.

    Nothing changes if the process may use more cores than there are workers, if others keep all cores, or if the system
    cannot do it (it is Linux that can).
    """
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    core, mark = _reserve(allowed) if 1 < len(allowed) <= n_workers else (None, None)
    if core is None or mark is None:
        yield
        return
    with mark:
        os.sched_setaffinity(0, {core})
        try:
            yield
        finally:
            os.sched_setaffinity(0, allowed)


def _reserve(cores: Iterable[int]) -> tuple[int, socket.socket] | tuple[None, None]:
    """Return a core that no other worker has reserved, and what reserves it until it is closed, or the process ends."""
    for core in sorted(cores):
        mark = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            mark.bind(f"\0scratchnn core {core}")  # a name without a file, which one process of the machine can have
        except OSError:
            mark.close()
        else:
            return core, mark
    return None, None
