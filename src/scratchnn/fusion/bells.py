"""How threads wait for one another, and how a thread that waits for something else is told from one that computes."""

import contextlib
import threading
import time


class Bell:
    """What one thread waits for, and others ring. A ring before the wait counts; several rings count once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def ring(self) -> None:
        """End the wait, or the next."""
        with contextlib.suppress(RuntimeError):  # it has rung already
            self._lock.release()

    def wait(self, timeout: float = -1) -> bool:
        """Wait for a ring, for ``timeout`` seconds at most if it is not -1. Return whether there was one."""
        return self._lock.acquire(timeout=max(timeout, -1))


class Watch:
    """Says when others should go on beside a task that has got the turn just now.

    Parameters
    ----------
    clock : int or None
        The clock of the processor time of the task's thread. None is that the system has no such clocks.
    """

    # Seconds for which a task keeps the turn while it uses a processor for less than this share of the time. The first
    # is blocked: it waits for a lock, a file, another process or another task. The second looks again and again whether
    # it can go on. A thread that computes gets a larger share on a busy machine, too.
    LIMITS = ((0.001, 0.2), (0.05, 0.5), (float("inf"), 10.0))
    LOOK = 0.03  # seconds between two looks, and what counts of a longer time
    ALONE = 10  # times as long if only a task that has not begun could end its wait

    def __init__(self, clock: int | None) -> None:
        self.clock = clock
        self.time, self.last = 0.0, time.monotonic()
        self.since = [self._read()] * len(self.LIMITS)  # when it was seen to use more

    def is_stuck(self, is_alone: bool) -> bool:
        """Look at the task. ``is_alone`` is whether no other task has begun that could end its wait."""
        time_now, used_now = now = self._read()
        for k, (share, seconds) in enumerate(self.LIMITS):
            time_before, used_before = self.since[k]
            if used_now - used_before > share * (time_now - time_before):
                self.since[k] = now
            elif time_now - time_before > seconds * (self.ALONE if is_alone else 1):
                return True
        return False

    def _read(self) -> tuple[float, float]:
        """Return the time, and the processor time used. Without a clock, the task seems to look again and again."""
        now = time.monotonic()
        # If this look comes late, the machine was busy or stood still, and the task may have had no processor either.
        self.time += min(now - self.last, self.LOOK)
        self.last = now
        if self.clock is None:
            return self.time, self.time * self.LIMITS[0][0] * 2
        try:
            return self.time, time.clock_gettime(self.clock)
        except OSError:  # the thread has ended
            return self.time, float("inf")


def find_clock(thread: threading.Thread) -> int | None:
    """Return the clock of a living thread's processor time, or None where the system has no such clocks."""
    if not hasattr(time, "pthread_getcpuclockid") or thread.ident is None:
        return None
    return time.pthread_getcpuclockid(thread.ident)
