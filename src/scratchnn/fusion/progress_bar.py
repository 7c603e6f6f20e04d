"""The progress bar of `fused_fits`: the numbers of finished and of known fits, and the time left."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .hub import Fusion

# {bar} takes the remaining width. In a notebook, it is a widget.
FORMAT = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"


class Bar:
    """A tqdm bar. A thread of its own updates it, so it costs the training nothing."""

    INTERVAL = 0.2  # seconds from one drawing to the next

    def __init__(self, fusion: Fusion) -> None:
        self.fusion = fusion
        # Made in the caller's thread: tasks may redirect standard error, and notebooks show it where it was made.
        self.bar = load_tqdm()(total=1, bar_format=FORMAT, desc="fused_fits", dynamic_ncols=True, file=sys.stderr)
        self.is_over = threading.Event()

    def log(self, text: object) -> None:
        """Print a line above the bar."""
        self.bar.write(f"[fused_fits] {text}", file=sys.stdout)

    @contextmanager
    def show(self) -> Iterator[None]:
        """Show the progress until the context ends. After an error, the bar stays as it is."""
        thread = threading.Thread(target=self._live, name="scratchnn-bar", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.is_over.set()
            thread.join()
            self.draw()
            self.bar.close()

    def draw(self) -> None:
        """Draw the current progress."""
        n_done, n_known = self.fusion.count_fits()
        n_stacks = len(self.fusion.report.stacks)
        self.bar.n = n_done / n_known if n_known else 0.0
        text = f"fused_fits: {int(n_done)} of {n_known} fits, {n_stacks} stack{'' if n_stacks == 1 else 's'}"
        self.bar.set_description_str(text, refresh=False)
        self.bar.refresh()

    def _live(self) -> None:
        while not self.is_over.wait(self.INTERVAL):
            self.draw()


def load_tqdm() -> Any:
    """Return tqdm's class of bars for this terminal or notebook."""
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError(
            "progress=True needs tqdm, which is not installed. Install it with pip install 'scratchnn[progress]', or "
            "leave progress=False."
        ) from error
    return type("Bar", (tqdm,), {"monitor_interval": 0})  # without tqdm's own monitor thread
