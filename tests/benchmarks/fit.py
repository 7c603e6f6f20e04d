"""One model: fit, predict and memory against MLPClassifier and skorch.

``python tests/benchmarks/fit.py`` prints all tables, in about ten minutes, and writes them to a dated file. Pass table
names as arguments to print only those. Peers run in the same process on the same data, with the same architecture,
solver, batch size and number of epochs, on all cores. Timings alternate, and a ratio is the median over rounds. Run
nothing else on the machine.
"""

import warnings
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from common import PEER, calc_ratio, make_skorch_net, pick, print_table, run_fresh, run_tables, time_rounds
from sklearn.base import BaseEstimator, ClassifierMixin, _fit_context
from sklearn.datasets import load_iris, make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

from scratchnn import ScratchNNClassifier

OURS, LINEAR = "ScratchNNClassifier", "LogisticRegression"
SAME = {"alpha": 1e-4, "learning_rate": "constant", "learning_rate_init": 0.001}  # where the defaults differ
NO_BINS = {"numeric_encoding": None}  # so that our network has the inputs of its peers
WORKLOADS = [  # samples, features, hidden layers, batch size, epochs, rounds
    (1_000, 20, (20,), 200, 50, 15),
    (10_000, 20, (100,), 200, 10, 11),
    (50_000, 50, (100,), 200, 4, 7),
    (100_000, 100, (256, 128), 1024, 2, 5),
]


def make_data(n_samples, n_features):
    return make_classification(n_samples, n_features, n_informative=10, random_state=0)


def describe(n_samples, n_features, hidden, batch_size=None, epochs=None):
    text = f"{n_samples:,} x {n_features}, {hidden}"
    return text if batch_size is None else f"{text}, batch {batch_size}, {epochs} epochs"


def make_fit(estimator, X, y, hidden, batch_size, epochs):
    settings = {"batch_size": batch_size, "max_iter": epochs, "tol": 0, "n_iter_no_change": 10_000, "random_state": 0}
    settings |= NO_BINS if estimator is ScratchNNClassifier else {}
    return partial(estimator(hidden, **SAME, **settings).fit, X, y)


def make_skorch_fit(X, y, hidden, batch_size, epochs):
    """Return a function that fits the same network with skorch, or None if skorch is not installed."""
    net = make_skorch_net(X.shape[1], hidden, batch_size, epochs)
    return None if net is None else lambda: net.fit(X.astype(np.float32), y.astype(np.float32))


def bench_fit():
    rows = []
    for number, (*shape, batch_size, epochs, n_rounds) in enumerate(pick(WORKLOADS)):
        n_samples, n_features, hidden = shape
        X, y = make_data(n_samples, n_features)
        calls = {
            PEER: make_fit(MLPClassifier, X, y, hidden, batch_size, epochs),
            OURS: make_fit(ScratchNNClassifier, X, y, hidden, batch_size, epochs),
        }
        seconds = time_rounds(calls, n_rounds)
        against_skorch = "not run"
        skorch_fit = make_skorch_fit(X, y, hidden, batch_size, epochs) if number < 2 else None
        if skorch_fit is not None:
            both = time_rounds({"skorch": skorch_fit, OURS: calls[OURS]}, 3)
            against_skorch = f"{calc_ratio(both, 'skorch', OURS):.1f}"
        ours = float(np.median(seconds[OURS]))
        n_steps = -(-n_samples // batch_size) * epochs
        rows.append(
            [
                describe(*shape, batch_size, epochs),
                f"{calc_ratio(seconds, PEER, OURS):.2f}",
                against_skorch,
                f"{ours * 1e3:.0f} ms",
                f"{ours / n_steps * 1e6:.0f} us",
            ]
        )
    print_table("Fit", ["workload", f"{PEER} / ours", "skorch / ours", "ours", "ours, a step"], rows)


def bench_predict():
    rows = []
    for n_samples, n_features, hidden, *_ in pick(WORKLOADS):
        X, y = make_data(n_samples, n_features)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            models = {
                PEER: MLPClassifier(hidden, max_iter=1).fit(X[:1000], y[:1000]),
                LINEAR: LogisticRegression().fit(X[:1000], y[:1000]),
                OURS: ScratchNNClassifier(hidden, max_iter=1, **NO_BINS).fit(X[:1000], y[:1000]),
            }
        single = time_rounds({name: partial(model.predict_proba, X[:1]) for name, model in models.items()}, 9, 200)
        bulk = time_rounds(
            {name: partial(model.predict_proba, X) for name, model in models.items()}, 9, max(5, 100_000 // n_samples)
        )
        rows.append(
            [
                describe(n_samples, n_features, hidden),
                f"{calc_ratio(single, PEER, OURS):.2f}",
                f"{calc_ratio(single, LINEAR, OURS):.2f}",
                f"{np.median(single[OURS]) * 1e6:.0f} us",
                f"{calc_ratio(bulk, PEER, OURS):.2f}",
                f"{np.median(bulk[OURS]) * 1e3:.2f} ms",
            ]
        )
    header = ["workload", f"one sample: {PEER} / ours", f"{LINEAR} / ours", "one sample"]
    header += [f"all: {PEER} / ours", "all samples"]
    print_table("predict_proba", header, rows)


def bench_lbfgs():
    X, y = make_data(10_000, 20)
    rows = []
    for hidden in pick([(100,), (20,), ()]):
        settings = {"solver": "lbfgs", "alpha": 1e-4, "max_iter": 50, "tol": 1e-9, "random_state": 0}
        seconds = time_rounds(
            {
                PEER: partial(MLPClassifier(hidden, **settings).fit, X, y),
                OURS: partial(ScratchNNClassifier(hidden, **settings, **NO_BINS).fit, X, y),
            },
            5,
        )
        rows.append(
            [
                describe(*X.shape, hidden),
                f"{calc_ratio(seconds, PEER, OURS):.2f}",
                f"{np.median(seconds[OURS]) * 1e3:.0f} ms",
            ]
        )
    print_table('solver="lbfgs", at most 50 iterations', ["workload", f"{PEER} / ours", "ours"], rows)


class Validated(ClassifierMixin, BaseEstimator):
    """A classifier that does nothing in `fit` but scikit-learn's own validation."""

    _parameter_constraints = ScratchNNClassifier._parameter_constraints
    __init__ = ScratchNNClassifier.__init__

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y):
        X, y = validate_data(self, X, y, dtype=(np.float64, np.float32), multi_output=True)
        check_classification_targets(y)
        return self


def bench_small():
    X, y = load_iris(return_X_y=True)
    calls = {
        PEER: partial(MLPClassifier((100,), batch_size=150, max_iter=10, **SAME).fit, X, y),
        OURS: partial(ScratchNNClassifier((100,), batch_size=150, max_iter=10, **SAME, **NO_BINS).fit, X, y),
        "validation": partial(Validated().fit, X, y),
    }
    seconds = {name: np.median(taken) * 1e3 for name, taken in time_rounds(calls, 9, 20).items()}
    parts = "base, compose, impute, linear_model, metrics, model_selection, preprocessing, utils.sparsefuncs"
    known = "import torch, joblib, " + ", ".join(f"sklearn.{part}" for part in parts.split(", "))
    code = f"import time; {known}; start = time.perf_counter(); import scratchnn; print(time.perf_counter() - start)"
    imports = np.median([float(run_fresh(code)) for _ in pick(range(7))]) * 1e3
    print_table(
        "Small things",
        ["what", "ms"],
        [
            ["fit on iris, 10 epochs", f"{seconds[OURS]:.2f}"],
            ["the same beyond scikit-learn's validation", f"{seconds[OURS] - seconds['validation']:.2f}"],
            [f"the same, {PEER}", f"{seconds[PEER]:.2f}"],
            ["import scratchnn, beyond torch and scikit-learn", f"{imports:.1f}"],
        ],
    )


def bench_samples():
    rows = []
    for n_samples in pick((1_000, 10_000, 100_000, 1_000_000)):
        X, y = make_data(n_samples, 20)
        few, many = 2, max(4, 40_000 // n_samples)
        seconds = time_rounds(
            {str(epochs): make_fit(ScratchNNClassifier, X, y, (20,), 200, epochs) for epochs in (few, many)}, 3
        )
        epoch = np.median(np.subtract(seconds[str(many)], seconds[str(few)])) / (many - few)
        before = np.median(seconds[str(few)]) - few * epoch
        rows.append(
            [
                f"{n_samples:,}",
                f"{epoch * 1e3:.2f} ms",
                f"{epoch / n_samples * 1e9:.0f} ns",
                f"{before / n_samples * 1e9:.0f} ns",
            ]
        )
    header = ["samples", "an epoch", "a sample of it", "a sample, outside the epochs"]
    print_table("Samples (20 features, (20,), batch 200)", header, rows)


MEMORY = """
import resource, warnings
import numpy as np
from common import read_status, read_peak, restart_peak
from scratchnn import ScratchNNClassifier
warnings.simplefilter("ignore")
settings = dict({settings}, numeric_encoding=None)
rng = np.random.default_rng(0)
ScratchNNClassifier((50,), max_iter=1, **settings).fit(rng.random((1000, 100)).astype("{dtype}"), np.arange(1000) % 2)
{data}
before = restart_peak()
{limit}
ScratchNNClassifier((50,), max_iter=2, batch_size=1000, **settings).fit(X, y)
print(read_peak() - before, read_peak())
"""
DENSE = """
X = np.empty(({n_samples}, 100), "{dtype}")
for start in range(0, len(X), 10_000):
    X[start : start + 10_000] = rng.random(X[start : start + 10_000].shape)
y = np.arange(len(X)) % 2
"""
MAPPED = """
import tempfile
file = tempfile.NamedTemporaryFile()
X = np.memmap(file.name, "float32", "w+", shape=({n_samples}, 100))
for start in range(0, len(X), 10_000):
    X[start : start + 10_000] = rng.random(X[start : start + 10_000].shape)
X.flush()
X = np.memmap(file.name, "float32", "r", shape=({n_samples}, 100))
y = np.arange(len(X)) % 2
"""
LIMIT = """
limit = int((read_status("VmData") + 200) * 2**20)
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
"""
SPARSE = """
from scipy import sparse
X = sparse.random(20_000, 200_000, 1e-4, "csr", random_state=rng)
y = np.arange(20_000) % 2
"""


def bench_memory():
    rows = []
    for n_samples in pick((250_000, 1_000_000)):
        for dtype, settings in [("float64", {}), ("float32", {}), ("float32", {"standardize": False})]:
            data = DENSE.format(n_samples=n_samples, dtype=dtype)
            printed = run_fresh(MEMORY.format(dtype=dtype, settings=settings, data=data, limit=""))
            size = n_samples * 100 * np.dtype(dtype).itemsize / 2**20
            name = f"{n_samples:,} x 100, {dtype}" + "".join(f", {key}={value}" for key, value in settings.items())
            rows.append([name, f"{size:.0f} MB", f"{float(printed.split()[0]):.0f} MB"])
    for settings in pick(({}, {"standardize": False})):
        data = MAPPED.format(n_samples=2_000_000)
        printed = run_fresh(MEMORY.format(dtype="float32", settings=settings, data=data, limit=LIMIT))
        name = "memmap, 200 MB allowed" + "".join(f", {key}={value}" for key, value in settings.items())
        rows.append([name, f"{2_000_000 * 400 / 2**20:.0f} MB", "trained"])
    print_table("Memory of fit, beyond the input (without bins, batches of 1,000)", ["input", "size", "peak"], rows)


def bench_sparse():
    code = MEMORY.format(dtype="float64", settings={}, data=SPARSE, limit="")
    code = code.replace("(50,), max_iter=2, batch_size=1000", "(16,), max_iter=2, batch_size=200")
    peak = float(run_fresh(code).split()[1])
    from scipy import sparse

    rng = np.random.default_rng(0)
    X, y = sparse.random(20_000, 200_000, 1e-4, "csr", random_state=rng), np.arange(20_000) % 2
    seconds = time_rounds(
        {
            name: make_fit(kind, X, y, (16,), 200, 2)
            for name, kind in [(PEER, MLPClassifier), (OURS, ScratchNNClassifier)]
        },
        3,
    )
    print_table(
        "Sparse table: 20,000 x 200,000 at a density of 1e-4, (16,), batch 200, 2 epochs",
        ["peak of the process", f"{PEER} / ours", "ours"],
        [[f"{peak:.0f} MB", f"{calc_ratio(seconds, PEER, OURS):.2f}", f"{np.median(seconds[OURS]):.2f} s"]],
    )


def bench_peak():
    """Print the floating-point operations per second of a large product, of the largest workload, and of its epochs."""
    n_samples, n_features, hidden, batch_size, epochs, n_rounds = WORKLOADS[-1]
    X, y = make_data(n_samples, n_features)
    square = torch.randn(2048, 2048)
    sizes = (n_features, *hidden, 1)
    products = [a * b for a, b in pairwise(sizes)]
    n_operations = 2 * n_samples * epochs * (3 * sum(products) - products[0])  # no gradient of the inputs
    twice = "twice the epochs"
    calls = {
        name: make_fit(ScratchNNClassifier, X, y, hidden, batch_size, n_epochs)
        for name, n_epochs in [(OURS, epochs), (twice, 2 * epochs)]
    }
    seconds = time_rounds({"square": lambda: [square @ square for _ in range(10)], **calls}, n_rounds)
    peak = 10 * 2 * 2048**3 / min(seconds["square"]) / 1e9
    taken = {"fit": np.median(seconds[OURS]), "its epochs": np.median(np.subtract(seconds[twice], seconds[OURS]))}
    print_table(
        f"Share of the peak: {describe(*WORKLOADS[-1][:5])}",
        ["what", "GFLOPS", "share"],
        [["float32 product, 2,048 x 2,048", f"{peak:.0f}", ""]]
        + [
            [name, f"{n_operations / each / 1e9:.0f}", f"{n_operations / each / 1e9 / peak:.0%}"]
            for name, each in taken.items()
        ],
    )


TABLES = {
    "fit": bench_fit,
    "predict": bench_predict,
    "lbfgs": bench_lbfgs,
    "small": bench_small,
    "samples": bench_samples,
    "memory": bench_memory,
    "sparse": bench_sparse,
    "peak": bench_peak,
}

if __name__ == "__main__":
    run_tables(TABLES)
