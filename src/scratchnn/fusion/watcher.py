"""A warning where a task waits for what another task holds across its fit: nothing else can end that wait."""

import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from .hub import Fusion, Hub

LIMIT = 30.0  # seconds without progress


class Watcher:
    """A thread that reads now and then whether tasks make progress, and warns once if they do not."""

    def __init__(self, fusion: Fusion) -> None:
        self.fusion = fusion
        self.is_over = threading.Event()
        self.seen: dict[Hub, int] = {}  # how far each hub was at the last look

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Look within the context."""
        thread = threading.Thread(target=self._live, name="scratchnn-watcher", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.is_over.set()

    def _live(self) -> None:
        while not self.is_over.wait(LIMIT):
            for hub in list(self.fusion.hubs):
                text = self._describe(hub)
                if text is not None:
                    warnings.warn(text, stacklevel=2)
                    return

    def _describe(self, hub: Hub) -> str | None:
        """Return what a hub waits for, or None if it makes progress."""
        task, n_resumed = hub.current, hub.n_resumed
        is_new, self.seen[hub] = self.seen.get(hub) != n_resumed, n_resumed
        frame = sys._current_frames().get(hub.thread)
        if is_new or task is None or not hub.queued or frame is None:
            return None
        stack = traceback.extract_stack(frame)
        start = max((k for k, entry in enumerate(stack) if entry.filename == hub_file), default=-1) + 1
        where = "".join(traceback.format_list(stack[start:])).rstrip()
        return (
            f"Task {task.call.tasks.index(task)} of fused_fits has run for {LIMIT:g} s, while {len(hub.queued)} tasks "
            "wait for their networks. If it waits for a lock that another task holds across its fit, the wait never "
            f"ends: take the lock inside the fit, or fit without fused_fits. The task is here:\n{where}"
        )


hub_file = Hub.__init__.__code__.co_filename
