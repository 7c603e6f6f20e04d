"""How the cost of a fit grows: with rows, columns, classes, the width and depth of the network, the batch, the models.

``python tests/benchmarks/growth.py`` prints all tables, in about ten minutes on two cores, and writes them to a dated
file. Pass names of axes as arguments to measure only those. Along an axis, one number changes, and all others stay.
Each point has a process of its own, so that its peak memory is its own. Run nothing else on the machine.

A step is set against three peaks of the same machine, with as many threads as the step uses:

- calls: the operations of the step, times the time of an operation in the step of a network of one neuron;
- arithmetic: the operations of its matrix products, at the speed of a product of two large square matrices;
- memory: the bytes that operations on more than 1 MB read and write, at the speed of a copy of a large tensor.

Each of the three is a part of the time of the step. The largest names the regime. The parts need not add up to 100 %:
the products of a step are smaller than the large one, and what the caches keep moves faster than a large copy.
"""

import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from common import IS_SMOKE, attempt, print_table, run_fresh, run_tables, time_call
from joblib import cpu_count
from sklearn.model_selection import GridSearchCV
from watch import measure_copy, measure_product, read_peak, restart_peak, watch_training

from scratchnn import ScratchNNClassifier, fused_fits

LEAST_STEPS = 40 if IS_SMOKE else 400  # of a fit, which has two epochs or more
REPEATED_SECONDS, MOST_REPEATS = 0.0 if IS_SMOKE else 2.0, 7  # a fit is repeated for so long, and so often, at most
MOST_COUNTED_ROWS = 2_000 if IS_SMOKE else 60_000  # operations are counted in a fit of so many
MOST_COUNTED_MODELS = 300
MOST_PREDICTED = 2**25  # probabilities
LEAST_MB = 1.0  # a smaller peak is that of the process, and has no exponent
REGIMES = ("calls", "arithmetic", "memory")


@dataclass(frozen=True)
class Workload:
    """What is fitted. With ``n_models``, it is a fused search with so many learning rates, on one split."""

    n_rows: int = 20_000
    n_columns: int = 20
    n_classes: int = 2
    hidden: Sequence[int] = (100,)
    batch_size: int = 200
    numeric_encoding: str | None = None
    n_models: int = 0

    @property
    def n_epochs(self) -> int:
        n_steps = math.ceil(self.n_rows / self.batch_size)
        return 20 if self.n_models else max(2, math.ceil(LEAST_STEPS / n_steps))


class Axis(NamedTuple):
    """What changes along an axis, and what does not."""

    fixed: str
    numbers: Sequence[int]
    make: Callable[[int], Workload]


AXES = {
    "rows": Axis(
        "10 columns, in bins, (100,), batch 200",
        [1_000, 10_000, 100_000, 1_000_000, 10_000_000],
        lambda n: Workload(n_rows=n, n_columns=10, numeric_encoding="auto"),
    ),
    "columns": Axis(
        "10,000 rows, (100,), batch 200",
        [10, 100, 1_000, 10_000],
        lambda n: Workload(n_rows=10_000, n_columns=n),
    ),
    "classes": Axis(
        "60,000 rows, 20 columns, (100,), batch 200",
        [2, 10, 100, 1_000, 6_000],
        lambda n: Workload(n_rows=60_000, n_classes=n),
    ),
    "width": Axis(
        "20,000 rows, 100 columns, one hidden layer, batch 200",
        [10, 30, 100, 300, 1_000, 3_000],
        lambda n: Workload(n_columns=100, hidden=(n,)),
    ),
    "depth": Axis(
        "20,000 rows, 20 columns, hidden layers of 100, batch 200",
        [1, 2, 4, 8, 16],
        lambda n: Workload(hidden=(100,) * n),
    ),
    "batch": Axis(
        "40,000 rows, 20 columns, (100,)",
        [10, 100, 1_000, 10_000, 40_000],
        lambda n: Workload(n_rows=40_000, batch_size=n),
    ),
    "models": Axis(
        "1,000 rows, 20 columns, (20,), batch 200, 20 epochs, fused",
        [1, 10, 100, 1_000, 3_000],
        lambda n: Workload(n_rows=1_000, hidden=(20,), n_models=n),
    ),
}


def make_table(workload: Workload) -> tuple[np.ndarray, np.ndarray]:
    """Return float32 rows, and equally many of each class, which lie one beside the other along a direction."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((workload.n_rows, workload.n_columns), np.float32)
    y = np.empty(workload.n_rows, np.int64)
    y[np.argsort(X[:, :10].sum(1))] = np.arange(workload.n_rows) * workload.n_classes // workload.n_rows
    return X, y


def make_classifier(workload: Workload, **settings: Any) -> ScratchNNClassifier:
    """Return a network that trains for all of its epochs."""
    return ScratchNNClassifier(
        tuple(workload.hidden),
        batch_size=workload.batch_size,
        numeric_encoding=workload.numeric_encoding,
        tol=0,
        n_iter_no_change=np.inf,
        random_state=0,
        **{"max_iter": workload.n_epochs, "device": "cpu"} | settings,
    )


def fit_models(workload: Workload, X: np.ndarray, y: np.ndarray, **settings: Any) -> ScratchNNClassifier | None:
    """Fit a classifier and return it, or make a fused search of ``n_models`` and return None."""
    classifier = make_classifier(workload, **settings)
    if not workload.n_models:
        return classifier.fit(X, y)
    rows = np.arange(len(X))
    grid = {"learning_rate_init": np.geomspace(1e-4, 1e-2, workload.n_models)}
    with fused_fits():
        GridSearchCV(classifier, grid, cv=[(rows, rows[: len(rows) // 5])], refit=False).fit(X, y)
    return None


def measure(workload: Workload) -> dict[str, float]:
    """Return what the workload costs: seconds, MB, and what a step of a model does. The process should be a new one."""
    X, y = make_table(workload)
    make_classifier(workload, max_iter=1).fit(X[:300], np.arange(300) % 2)  # libraries load what they need
    before, peaks, fits = restart_peak(), [], []
    while not fits or (sum(seconds for seconds, _ in fits) < REPEATED_SECONDS and len(fits) < MOST_REPEATS):
        start = time.perf_counter()
        with watch_training() as training:
            fitted = fit_models(workload, X, y)
        fits.append((time.perf_counter() - start, training))
        peaks.append(read_peak())
    fit = statistics.median(seconds for seconds, _ in fits)
    trained = statistics.median(training.seconds for _, training in fits)
    return {
        "data": X.nbytes / 2**20,
        "fit": fit,
        "epoch": trained / workload.n_epochs,
        "outside": fit - trained,
        "step": trained / training.n_steps,
        "row": math.nan if fitted is None else time_predictions(fitted, X),
        "peak": float(np.maximum(peaks[0] - before, 0)),  # NaN stays
        "threads": training.n_threads,
        **count_operations(workload, X, y),
    }


def time_predictions(fitted: ScratchNNClassifier, X: np.ndarray) -> float:
    """Return the seconds of ``predict_proba`` for a row of many."""
    X = X[: MOST_PREDICTED // len(fitted.classes_)]
    return statistics.median(time_call(lambda: fitted.predict_proba(X)) for _ in range(3)) / len(X)


def count_operations(workload: Workload, X: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Return what a step of a model does, from a fit of an epoch, of fewer rows and models where that is the same."""
    fewer = replace(workload, n_models=min(workload.n_models, MOST_COUNTED_MODELS))
    with watch_training(count=True) as training:
        fit_models(fewer, X[:MOST_COUNTED_ROWS], y[:MOST_COUNTED_ROWS], max_iter=1)
    return {name: number / training.n_steps for name, number in asdict(training.operations).items()}


def measure_machine(n_values: int = 2**26, size: int = 2048) -> dict[str, dict[str, float]]:
    """Return the peaks, by the number of threads: seconds of a call, floating-point operations and bytes per second."""
    peaks = {}
    for n_threads in sorted({1, min(torch.get_num_threads(), cpu_count())}):
        torch.set_num_threads(n_threads)
        peaks[str(n_threads)] = {"n_flops": measure_product(size), "n_bytes": measure_copy(n_values)}
    smallest = measure(Workload(n_rows=1_000, n_columns=2, hidden=(1,), batch_size=4))
    call = smallest["step"] / smallest["n_calls"]
    return {n_threads: {"n_calls": 1 / call, **speeds} for n_threads, speeds in peaks.items()}


def run_alone(expression: str) -> Any:
    """Return the value of an expression of this module, from a new process."""
    start = f"import json, sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); sys.argv += {sys.argv[1:]!r}"
    code = f"{start}; from growth import *; print(json.dumps({expression}))"
    return json.loads(run_fresh(code).splitlines()[-1])


@cache
def get_peaks() -> dict[str, dict[str, float]]:
    """Return the peaks of the machine, by the number of threads, and print them as a table."""
    peaks = run_alone("measure_machine(2**20, 256)" if IS_SMOKE else "measure_machine()")
    rows = [
        [n_threads, f"{1e6 / each['n_calls']:.2f} us", f"{each['n_flops'] / 1e9:.1f}", f"{each['n_bytes'] / 1e9:.1f}"]
        for n_threads, each in peaks.items()
    ]
    print_table("Peaks of the machine", ["threads", "an operation", "GFLOP/s of a product", "GB/s of a copy"], rows)
    return peaks


def find_parts(point: dict[str, float], peaks: dict[str, float]) -> dict[str, float]:
    """Return the time of a step that each regime accounts for at its peak, as parts of the time that it took."""
    names = zip(REGIMES, ("n_calls", "n_flops", "n_bytes"), strict=True)
    return {regime: point[name] / peaks[name] / point["step"] for regime, name in names}


def calc_exponents(values: dict[int, float]) -> tuple[str, str]:
    """Return the slopes of log value against log number: of all points by least squares, and of the last two."""
    points = [(math.log(n), math.log(value)) for n, value in values.items()]
    if len(points) < 2:
        return "", ""
    overall, last = (np.polyfit(*zip(*part, strict=True), 1)[0] for part in (points, points[-2:]))
    return f"{round(overall, 2) + 0.0:.2f}", f"{round(last, 2) + 0.0:.2f}"  # 0.00 rather than -0.00


def show(value: float, unit: str) -> str:
    """Return a value with three digits, and its unit."""
    if math.isnan(value):
        return "not measured"
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def print_costs(axis: str, points: dict[int, dict[str, float]]) -> None:
    """Print what each point of an axis costs, and the exponents below."""
    columns = {
        "data": ("data", 1, "MB"),
        "fit": ("fit", 1, "s"),
        "outside training": ("outside", 1, "s"),
        "per epoch": ("epoch", 1e3, "ms"),
        "per step": ("step", 1e6, "us"),
        "predict, per row": ("row", 1e9, "ns"),
        "peak memory": ("peak", 1, "MB"),
    }
    if axis == "models":
        del columns["data"], columns["per epoch"], columns["predict, per row"]
        columns["per model"] = ("fit_model", 1e3, "ms")
    rows = [
        [f"{n:,}", *(show(point[name] * factor, unit) for name, factor, unit in columns.values())]
        for n, point in points.items()
    ]
    least = {"peak": LEAST_MB}
    exponents = [
        calc_exponents({n: point[name] for n, point in points.items() if point[name] > least.get(name, 0)})
        for name, *_ in columns.values()
    ]
    rows += [list(row) for row in zip(("exponent", "of the last two"), *exponents, strict=True)]
    print_table(f"Cost by {axis}: {AXES[axis].fixed}", [axis, *columns], rows)


def print_regimes(axis: str, points: dict[int, dict[str, float]]) -> None:
    """Print what limits a step at each point of an axis."""
    rows, bound = [], []
    for n, point in points.items():
        parts = find_parts(point, get_peaks()[str(point["threads"])])
        regime = max(REGIMES, key=parts.__getitem__)
        bound += [n] if regime == "memory" else []
        rows.append(
            [
                f"{n:,}",
                f"{point['threads']}",
                f"{point['n_calls']:.3g}",
                f"{point['n_flops'] / point['step'] / 1e9:.3g}",
                f"{point['n_bytes'] / point['step'] / 1e9:.3g}",
                *(f"{part:.0%}" for part in parts.values()),
                regime,
            ]
        )
    header = [axis, "threads", "operations", "GFLOP/s", "GB/s", *REGIMES, "regime"]
    print_table(f"A step by {axis}: {AXES[axis].fixed}", header, rows)
    print(f"memory-bound at: {', '.join(f'{n:,}' for n in bound) or 'none'}", flush=True)


def measure_point(workload: Workload) -> dict[str, float]:
    """Return what a workload costs in a process of its own. With ``--smoke``, in this process."""
    return measure(workload) if IS_SMOKE else run_alone(f"measure({workload!r})")


def bench_axis(axis: str) -> None:
    """Measure the points of an axis, and print its tables."""
    get_peaks()
    _, numbers, make = AXES[axis]
    points = {}
    for n in numbers[:2] if IS_SMOKE else numbers:
        point = attempt(f"{axis} {n:,}", partial(measure_point, make(n)))
        if point is None:
            continue
        points[n] = point | {"fit_model": point["fit"] / n}
        print(f"{axis} {n:,}: fit {point['fit']:.3g} s, a step {point['step'] * 1e6:.3g} us", flush=True)
    print_costs(axis, points)
    print_regimes(axis, points)


if __name__ == "__main__":
    run_tables({axis: partial(bench_axis, axis) for axis in AXES})
