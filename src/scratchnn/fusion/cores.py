"""A core for each worker, where there are at least as many workers as cores.

The threads of a worker's tasks take turns. Where other workers keep all cores busy, too, the system starts each thread
on any of them, and the turn waits until the time slice of another worker ends: a fused search takes a fifth longer.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def use_own_core(n_workers: int) -> Iterator[None]:
    """Keep the calling thread, and threads that it starts, on a core that no other worker keeps.

    Nothing changes if the process may use more cores than there are workers, if others keep all cores, or if the system
    cannot do it or refuses it (it is Linux that can).
    """
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    mark = _move_to_own_core(allowed) if 1 < len(allowed) <= n_workers else None
    if mark is None:
        yield
        return
    with mark:
        try:
            yield
        finally:
            with suppress(OSError):  # the cores that the process may use have changed
                os.sched_setaffinity(0, allowed)


def _move_to_own_core(cores: set[int]) -> socket.socket | None:
    """Move the calling thread to a core that no other worker keeps, if there is one.

    Return what keeps the core until it is closed or the process ends: a socket whose name, which is no file, only one
    process of the machine can have.
    """
    for core in sorted(cores):
        with suppress(OSError):
            mark = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            try:
                mark.bind(f"\0scratchnn core {core}")
                os.sched_setaffinity(0, {core})
            except OSError:
                mark.close()
            else:
                return mark
    return None
