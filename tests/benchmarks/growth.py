"""How the cost of a fit grows: with samples, features, classes, width, depth, the batch, and the models of a search.

``python tests/benchmarks/growth.py`` prints all tables, in about ten minutes on two cores, and writes them to a dated
file. Pass names of axes as arguments to measure only those. Along an axis, one number changes, and all others stay.
Each point has a process of its own, so that its peak memory is its own. Run nothing else on the machine.

A second fit has twice the epochs. What it takes longer is the time of the epochs, and the rest of the first fit is what
a fit does once.
"""

import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from common import IS_SMOKE, attempt, print_table, read_peak, restart_peak, run_fresh, run_tables, time_call
from sklearn.model_selection import GridSearchCV

from scratchnn import ScratchNNClassifier, fused_fits

MIN_STEPS = 40 if IS_SMOKE else 400  # of a fit, which has two epochs or more
REPEATED_SECONDS, MAX_REPEATS = 0.0 if IS_SMOKE else 4.0, 7  # both fits are repeated for so long, and so often, at most
MAX_PREDICTED = 2**25  # probabilities
MIN_MB = 1.0  # a smaller peak is that of the process, and has no exponent


@dataclass(frozen=True)
class Workload:
    """What is fitted. With ``n_models``, it is a fused search with so many learning rates, on one split."""

    n_samples: int = 20_000
    n_features: int = 20
    n_classes: int = 2
    hidden: Sequence[int] = (100,)
    batch_size: int = 200
    numeric_encoding: str | None = None
    n_models: int = 0

    @property
    def n_steps(self) -> int:
        """Steps of an epoch."""
        return math.ceil(self.n_samples / self.batch_size)

    @property
    def n_epochs(self) -> int:
        """Epochs of the shorter fit."""
        return 20 if self.n_models else max(2, math.ceil(MIN_STEPS / self.n_steps))


class Axis(NamedTuple):
    """What changes along an axis, and what does not."""

    fixed: str
    numbers: Sequence[int]
    make: Callable[[int], Workload]


AXES = {
    "samples": Axis(
        "10 features, in bins, (100,), batch 200",
        [1_000, 10_000, 100_000, 1_000_000, 10_000_000],
        lambda n: Workload(n_samples=n, n_features=10, numeric_encoding="auto"),
    ),
    "features": Axis(
        "10,000 samples, (100,), batch 200",
        [10, 100, 1_000, 10_000],
        lambda n: Workload(n_samples=10_000, n_features=n),
    ),
    "classes": Axis(
        "60,000 samples, 20 features, (100,), batch 200",
        [2, 10, 100, 1_000, 6_000],
        lambda n: Workload(n_samples=60_000, n_classes=n),
    ),
    "width": Axis(
        "20,000 samples, 100 features, one hidden layer, batch 200",
        [10, 30, 100, 300, 1_000, 3_000],
        lambda n: Workload(n_features=100, hidden=(n,)),
    ),
    "depth": Axis(
        "20,000 samples, 20 features, hidden layers of 100, batch 200",
        [1, 2, 4, 8, 16],
        lambda n: Workload(hidden=(100,) * n),
    ),
    "batch": Axis(
        "40,000 samples, 20 features, (100,)",
        [10, 100, 1_000, 10_000, 40_000],
        lambda n: Workload(n_samples=40_000, batch_size=n),
    ),
    "models": Axis(
        "1,000 samples, 20 features, (20,), batch 200, 20 epochs, fused",
        [1, 10, 100, 1_000, 3_000],
        lambda n: Workload(n_samples=1_000, hidden=(20,), n_models=n),
    ),
}


def make_table(workload: Workload) -> tuple[np.ndarray, np.ndarray]:
    """Return float32 samples, and equally many of each class, which lie one beside the other along a direction."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((workload.n_samples, workload.n_features), np.float32)
    y = np.empty(workload.n_samples, np.int64)
    y[np.argsort(X[:, :10].sum(1))] = np.arange(workload.n_samples) * workload.n_classes // workload.n_samples
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
    samples = np.arange(len(X))
    grid = {"learning_rate_init": np.geomspace(1e-4, 1e-2, workload.n_models)}
    with fused_fits():
        GridSearchCV(classifier, grid, cv=[(samples, samples[: len(X) // 5])], refit=False).fit(X, y)
    return None


def time_fits(workload: Workload, X: np.ndarray, y: np.ndarray, **settings: Any) -> tuple[float, float]:
    """Return the seconds of a fit, and those of its epochs: medians."""
    few, more = (partial(fit_models, workload, X, y, max_iter=k * workload.n_epochs, **settings) for k in (1, 2))
    seconds: list[tuple[float, float]] = []
    while not seconds or (sum(map(sum, seconds)) < REPEATED_SECONDS and len(seconds) < MAX_REPEATS):
        seconds.append((time_call(few), time_call(more)))
    return statistics.median(a for a, _ in seconds), statistics.median(b - a for a, b in seconds)


def measure(workload: Workload) -> dict[str, float]:
    """Return what the workload costs: seconds and MB. The process should be a new one."""
    X, y = make_table(workload)
    make_classifier(workload, max_iter=1).fit(X[:300], np.arange(300) % 2)  # libraries load what they need
    before = restart_peak()
    fitted = fit_models(workload, X, y)
    peak = float(np.maximum(read_peak() - before, 0))  # NaN stays
    fit, epochs = time_fits(workload, X, y)
    return {
        "data": X.nbytes / 2**20,
        "fit": fit,
        "outside": fit - epochs,
        "epoch": epochs / workload.n_epochs,
        "step": epochs / workload.n_epochs / workload.n_steps / max(1, workload.n_models),
        "sample": math.nan if fitted is None else time_predictions(fitted, X),
        "peak": peak,
        "model": fit / max(1, workload.n_models),
    }


def time_predictions(fitted: ScratchNNClassifier, X: np.ndarray) -> float:
    """Return the seconds of ``predict_proba`` for a sample of many."""
    X = X[: MAX_PREDICTED // len(fitted.classes_)]
    return statistics.median(time_call(lambda: fitted.predict_proba(X)) for _ in range(3)) / len(X)


def measure_alone(workload: Workload) -> dict[str, float]:
    """Return what a workload costs in a process of its own. With ``--smoke``, in this process."""
    if IS_SMOKE:
        return measure(workload)
    return json.loads(run_fresh(f"import json; from growth import *; print(json.dumps(measure({workload!r})))"))


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


def bench_axis(axis: str) -> None:
    """Measure the points of an axis, and print what each costs, and the exponents below."""
    fixed, numbers, make = AXES[axis]
    points = {}
    for n in numbers[:2] if IS_SMOKE else numbers:
        point = attempt(f"{axis} {n:,}", partial(measure_alone, make(n)))
        if point is not None:
            points[n] = point
            print(f"{axis} {n:,}: fit {point['fit']:.3g} s, a step {point['step'] * 1e6:.3g} us", flush=True)
    columns = {
        "data": ("data", 1, "MB"),
        "fit": ("fit", 1, "s"),
        "outside training": ("outside", 1, "s"),
        "per epoch": ("epoch", 1e3, "ms"),
        "per step": ("step", 1e6, "us"),
        "predict, per sample": ("sample", 1e9, "ns"),
        "peak memory": ("peak", 1, "MB"),
    }
    if axis == "models":
        del columns["data"], columns["per epoch"], columns["predict, per sample"]
        columns["per model"] = ("model", 1e3, "ms")
    rows = [
        [f"{n:,}", *(show(point[name] * factor, unit) for name, factor, unit in columns.values())]
        for n, point in points.items()
    ]
    least = {"peak": MIN_MB}
    exponents = [
        calc_exponents({n: point[name] for n, point in points.items() if point[name] > least.get(name, 0)})
        for name, *_ in columns.values()
    ]
    rows += [list(row) for row in zip(("exponent", "of the last two"), *exponents, strict=True)]
    print_table(f"Cost by {axis}: {fixed}", [axis, *columns], rows)


TABLES = {axis: partial(bench_axis, axis) for axis in AXES}

if __name__ == "__main__":
    run_tables(TABLES)
