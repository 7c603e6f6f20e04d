"""The bar of `fused_fits`: how many fits are done, of how many that are known, and how long the others will take."""

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from ..training import TrainingRun, train, trainer
from .report import FusionReport

# {bar} fills the width that the rest leaves. In a notebook it is a widget.
FORMAT = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"


class FitCounter(Protocol):
    """What a bar asks how far it is."""

    def count_fits(self) -> tuple[float, int]:
        """Return how many fits are done, with parts of those in training, and how many are known."""


class OutsideFits:
    """Fits in no task, such as the final one of a search. They train at once, each alone."""

    def __init__(self) -> None:
        self.n_ended = 0
        self.in_training: list[TrainingRun] = []
        self.outer = trainer.get()

    def train(self, run: TrainingRun) -> None:
        """Train a run, in place, as without a bar."""
        self.in_training.append(run)
        try:
            if self.outer is None:
                train([run])
            else:
                self.outer(run)
        finally:
            self.in_training.remove(run)
            self.n_ended += 1

    def count_fits(self) -> tuple[float, int]:
        """Return how many fits are done, with parts of those in training, and how many are known."""
        runs = list(self.in_training)
        return self.n_ended + sum(map(calc_share, runs)), self.n_ended + len(runs)

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Have the fits of this thread trained here."""
        trainer.set(self.train)
        try:
            yield
        finally:
            trainer.set(self.outer)


class Bar:
    """A bar of tqdm. A thread draws it, so that training neither counts nor writes anything for it.

    Parameters
    ----------
    report : FusionReport
        Has the stacks that were trained.
    """

    INTERVAL = 0.2  # seconds from one drawing to the next

    def __init__(self, report: FusionReport) -> None:
        self.report = report
        self.counters: Sequence[FitCounter] = []
        # Made in the caller's thread: tasks may redirect standard error, and notebooks show it where it was made.
        self.bar = load_tqdm()(total=1, bar_format=FORMAT, desc="fused_fits", dynamic_ncols=True, file=sys.stderr)
        self.is_over = threading.Event()
        self.thread = threading.Thread(target=self._live, name="scratchnn-bar", daemon=True)

    def say(self, text: object) -> None:
        """Print a line above the bar."""
        self.bar.write(f"[fused_fits] {text}", file=sys.stdout)

    @contextmanager
    def show(self, counters: Sequence[FitCounter]) -> Iterator[None]:
        """Show what is done, until the context ends. After an error, the bar stays where it was."""
        self.counters = counters
        try:
            try:
                self.thread.start()
            except (RuntimeError, MemoryError):  # where no thread can be started, only the end is drawn
                self.is_over.set()
            yield
        finally:
            self.is_over.set()
            if self.thread.ident is not None:
                self.thread.join()
            self.draw()
            self.bar.close()

    def draw(self) -> None:
        """Draw what is done now."""
        counts = [counter.count_fits() for counter in list(self.counters)]
        n_done, n_known = sum(done for done, _ in counts), sum(known for _, known in counts)
        n_stacks = len(self.report.stacks)
        self.bar.n = n_done / n_known if n_known else 0.0
        text = f"fused_fits: {int(n_done)} of {n_known} fits, {n_stacks} stack{'' if n_stacks == 1 else 's'}"
        self.bar.set_description_str(text, refresh=False)
        self.bar.refresh()

    def _live(self) -> None:
        while not self.is_over.wait(self.INTERVAL):
            self.draw()


def calc_share(run: TrainingRun) -> float:
    """Return which part of a run's epochs is done, from 0 to 1. Early stopping may end it before 1."""
    return min(1.0, run.n_epochs / run.hyperparameters.max_iter)


def load_tqdm() -> Any:
    """Return tqdm's class of bars for this terminal or notebook.

    Raises
    ------
    ImportError
        If tqdm is not installed.
    """
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError(
            "progress=True needs tqdm, which is not installed. Install it with pip install 'scratchnn[progress]', or "
            "leave progress=False."
        ) from error
    return type("Bar", (tqdm,), {"monitor_interval": 0})  # its own thread would look after bars that nobody draws
