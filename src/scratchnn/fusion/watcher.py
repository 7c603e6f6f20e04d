"""A warning about deadlocks: a task waits for a lock that another task holds across its fit."""

import sys
import threading
import traceback
import warnings

from .hub import Fusion, Hub

LIMIT = 30.0  # seconds without progress


def start_watcher(fusion: Fusion) -> threading.Event:
    """Start a thread that checks whether tasks make progress, and warns once. Return the event that ends it."""
    is_over = threading.Event()
    threading.Thread(target=_watch, args=(fusion, is_over), name="scratchnn-watcher", daemon=True).start()
    return is_over


def _watch(fusion: Fusion, is_over: threading.Event) -> None:
    seen: dict[Hub, int] = {}  # progress of each hub at the last check
    while not is_over.wait(LIMIT):
        for hub in list(fusion.hubs):
            text = _describe(hub) if seen.get(hub) == hub.n_resumed else None
            seen[hub] = hub.n_resumed
            if text is not None:
                warnings.warn(text, stacklevel=2)
                return


def _describe(hub: Hub) -> str | None:
    """Return a warning about a hub's task, with its position in the code, if others wait for it."""
    task, frame = hub.current, sys._current_frames().get(hub.thread)
    if task is None or not hub.pool.queue or frame is None:
        return None
    stack = traceback.extract_stack(frame)
    own = Hub.train.__code__.co_filename
    start = max((k + 1 for k, entry in enumerate(stack) if entry.filename == own), default=0)
    where = "".join(traceback.format_list(stack[start:])).rstrip()
    return (
        f"Task {task.call.tasks.index(task)} of fused_fits has run for {LIMIT:g} s, while {len(hub.pool.queue)} tasks "
        "wait for their networks. If it waits for a lock that another task holds across its fit, the wait never ends: "
        f"acquire the lock inside the fit, or fit without fused_fits. The task is here:\n{where}"
    )
