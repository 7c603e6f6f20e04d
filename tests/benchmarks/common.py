"""Functions that all benchmarks use: timings in turn, fresh processes, and tables as the documentation has them."""

import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from typing import Any

PAUSE = 0.3  # seconds before each timing, until the threads of the one before stop spinning
PEER = "MLPClassifier"


def time_call(call: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def time_rounds(calls: dict[str, Callable[[], object]], n_rounds: int, n_repeats: int = 1) -> dict[str, list[float]]:
    """Return the seconds of each call, one timing per round. Each round times all calls; the first does not count.

    With ``n_repeats``, a timing is the median of that many calls in a row.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for n_done in range(n_rounds + 1):
        for name, call in calls.items():
            time.sleep(PAUSE)
            taken = statistics.median(time_call(call) for _ in range(n_repeats))
            if n_done:
                seconds[name].append(taken)
    return seconds


def calc_ratio(seconds: dict[str, list[float]], slower: str, faster: str) -> float:
    """Return how many times as long ``slower`` takes as ``faster``: the median of the ratios of all rounds."""
    return statistics.median(a / b for a, b in zip(seconds[slower], seconds[faster], strict=True))


def run_fresh(code: str) -> str:
    """Run code in a new Python process, and return what it prints."""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"a benchmark's process failed:\n{result.stderr}")
    return result.stdout.strip()


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table as reStructuredText."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    line = "  ".join("=" * width for width in widths)
    print(f"\n{title}\n\n{line}")
    for number, row in enumerate([header, *rows]):
        print("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
        if number == 0:
            print(line)
    print(line, flush=True)


def print_machine() -> None:
    """Print what the figures depend on: processor, threads, versions."""
    import torch

    processor = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as lines:
            processor = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), processor)
    versions = []
    for package in ("scratchnn", "torch", "scikit-learn", "numpy", "scipy", "joblib", "skorch"):
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            versions.append(f"no {package}")
    print(f"{processor}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, Python {platform.python_version()}")
    print(", ".join(versions), flush=True)


def make_skorch_net(n_columns: int, hidden: Sequence[int], batch_size: int, epochs: int) -> Any:
    """Return skorch's version of a network for two classes, or None if skorch is not installed."""
    try:
        from skorch import NeuralNetBinaryClassifier
    except ImportError:
        return None
    from torch import nn, optim

    sizes = [n_columns, *hidden]
    layers = [layer for pair in pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
    return NeuralNetBinaryClassifier(
        nn.Sequential(*layers, nn.Linear(sizes[-1], 1)),
        optimizer=optim.Adam,
        lr=0.001,
        batch_size=batch_size,
        max_epochs=epochs,
        iterator_train__shuffle=True,
        train_split=None,
        verbose=0,
    )


def run_tables(tables: dict[str, Callable[[], object]]) -> None:
    """Print the tables that the command line names, or all."""
    names = sys.argv[1:] or list(tables)
    unknown = sorted(set(names) - set(tables))
    if unknown:
        sys.exit(f"no such table: {', '.join(unknown)}; there are {', '.join(tables)}")
    warnings.simplefilter("ignore")
    os.environ["PYTHONWARNINGS"] = "ignore"  # of workers
    print_machine()
    for name in names:
        print(f"... {name}, {time_call(tables[name]):.0f} s")
