"""Functions that all benchmarks use: timings in turn, fresh processes, and tables, printed and in a file.

The file is JSON, dated, and has the machine, the versions and all tables. ``compare.py`` compares two of them, and
``docs/_figures/refresh.py`` brings one into the documentation. With ``--smoke``, the smallest workload of each table is
timed once, which shows only that the benchmark runs.
"""

import argparse
import datetime
import gc
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Any

PAUSE = 0.3  # seconds before each timing, until the threads of the one before stop spinning
PEER = "MLPClassifier"

IS_SMOKE = "--smoke" in sys.argv
_tables: dict[str, list[dict[str, str]]] = {}  # that were printed, by title
_failures: list[str] = []  # of `attempt`


def time_call(call: Callable[[], object]) -> float:
    """Return the seconds that a call takes, and what it has started on a GPU."""
    finish_gpu_work()
    start = time.perf_counter()
    call()
    finish_gpu_work()
    return time.perf_counter() - start


def finish_gpu_work() -> None:
    """Wait until the GPU, if this process uses one, has done all that it was told."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def time_rounds(calls: dict[str, Callable[[], object]], n_rounds: int, n_repeats: int = 1) -> dict[str, list[float]]:
    """Return the seconds of each call, one timing per round. Each round times all calls; the first does not count.

    With ``n_repeats``, a timing is the median of that many calls in a row.
    """
    if IS_SMOKE:
        return {name: [time_call(call)] for name, call in calls.items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for n_done in range(n_rounds + 1):
        for name, call in calls.items():
            time.sleep(PAUSE)
            taken = statistics.median(time_call(call) for _ in range(n_repeats))
            if n_done:
                seconds[name].append(taken)
    return seconds


def pick(workloads: Sequence[Any]) -> Sequence[Any]:
    """Return the workloads to time: with ``--smoke``, only the first."""
    return workloads[:1] if IS_SMOKE else workloads


def calc_ratio(seconds: dict[str, list[float]], slower: str, faster: str) -> float:
    """Return how many times as long ``slower`` takes as ``faster``: the median of the ratios of all rounds."""
    return statistics.median(a / b for a, b in zip(seconds[slower], seconds[faster], strict=True))


def run_fresh(code: str) -> str:
    """Run code, which may import the modules of this folder, in a new Python process. Return what it prints."""
    path = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-c", code, *(["--smoke"] if IS_SMOKE else [])]
    result = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    if result.returncode:
        raise RuntimeError(f"a benchmark's process failed:\n{result.stderr}")
    return result.stdout.strip()


def restart_peak() -> float:
    """Let the peak memory of this process start again. Return its present memory in MB, NaN where it is not known."""
    gc.collect()
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        return math.nan
    return read_status("VmRSS")


def read_peak() -> float:
    """Return the peak memory of this process in MB since `restart_peak`, NaN where it is not known."""
    return read_status("VmHWM")


def read_status(name: str) -> float:
    """Return a size of memory that Linux tells of this process, in MB, NaN elsewhere."""
    try:
        with open("/proc/self/status") as lines:
            return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))
    except OSError:
        return math.nan


def attempt(name: str, call: Callable[[], Any]) -> Any:
    """Return what a call returns. If it fails, print that, and return None; `run_tables` then ends with an error."""
    try:
        return call()
    except Exception:
        print(f"{name} failed:\n{traceback.format_exc()}", flush=True)
        _failures.append(name)
        return None


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table as reStructuredText, and keep it for the file."""
    _tables[title] = [dict(zip(header, row, strict=True)) for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    line = "  ".join("=" * width for width in widths)
    print(f"\n{title}\n\n{line}")
    for number, row in enumerate([header, *rows]):
        print("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
        if number == 0:
            print(line)
    print(line, flush=True)


def describe_machine() -> dict[str, str]:
    """Return what the figures depend on: processor, threads, versions."""
    import torch

    processor = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as lines:
            processor = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), processor)
    machine = {
        "processor": processor,
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "Python": platform.python_version(),
    }
    for package in ("scratchnn", "torch", "scikit-learn", "numpy", "scipy", "joblib", "skorch"):
        try:
            machine[package] = version(package)
        except PackageNotFoundError:
            machine[package] = "none"
    if torch.cuda.is_available():
        machine |= {"GPU": torch.cuda.get_device_name(), "CUDA": torch.version.cuda or "none"}
    return machine


def make_skorch_net(n_features: int, hidden: Sequence[int], batch_size: int, epochs: int) -> Any:
    """Return skorch's version of a network for two classes, or None if skorch is not installed."""
    try:
        from skorch import NeuralNetBinaryClassifier
    except ImportError:
        return None
    from torch import nn, optim

    sizes = [n_features, *hidden]
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


def make_parser(tables: Iterable[str]) -> argparse.ArgumentParser:
    """Return the parser of the command line. A benchmark may add options of its own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("tables", nargs="*", metavar="table", help=f"{', '.join(tables)}; all without")
    parser.add_argument("--folder", type=Path, default=Path("benchmark-results"), help="gets the JSON file")
    parser.add_argument("--smoke", action="store_true", help="only show that the benchmark runs")
    return parser


def run_tables(tables: dict[str, Callable[[], object]], arguments: argparse.Namespace | None = None) -> None:
    """Print the tables that the command line names, or all, and write them to a file, anew after each table."""
    arguments = arguments or make_parser(tables).parse_args()
    unknown = sorted(set(arguments.tables) - set(tables))
    if unknown:
        sys.exit(f"no such table: {', '.join(unknown)}; there are {', '.join(tables)}")
    warnings.simplefilter("ignore")
    os.environ["PYTHONWARNINGS"] = "ignore"  # of workers
    machine = describe_machine()
    print(", ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    if IS_SMOKE:
        sys.modules["torch"].set_num_threads(1)  # several threads wait for one another where others have the cores
    path = name_results(Path(sys.argv[0]).stem, arguments.folder)
    for name in arguments.tables or tables:
        print(f"... {name}, {time_call(tables[name]):.0f} s", flush=True)
        write_results(path, machine)
    if _failures:
        sys.exit(f"failed: {', '.join(_failures)}")


def name_results(benchmark: str, folder: Path) -> Path:
    """Return the path of a new file of results."""
    return folder / f"{benchmark}-{datetime.datetime.now():%Y-%m-%d-%H%M%S}.json"


def write_results(path: Path, machine: dict[str, str]) -> None:
    """Write the tables that were printed so far to a file."""
    date = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    content = {"benchmark": path.stem.split("-")[0], "date": date, "machine": machine, "tables": _tables}
    content |= {"smoke": True} if IS_SMOKE else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")
    print(f"written to {path}", flush=True)
