"""Many models: a fused grid search against MLPClassifier, skorch and ScratchNNClassifier without fusion.

``python tests/benchmarks/search.py`` prints all tables, in about 15 minutes, and writes them to a dated file. Pass
table names as arguments to print only those. All searches try 20 learning rates on 5 folds with
Pipeline(StandardScaler, net), Adam and batches of 200, on all cores, with the same epochs and data. Timings alternate,
and a ratio is the median over rounds. Run nothing else on the machine.
"""

from functools import partial

import numpy as np
from common import PEER, calc_ratio, make_skorch_net, pick, print_table, run_tables, time_rounds
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits, make_classification
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from scratchnn import ScratchNNClassifier, fused_fits

FUSED, FUSED_TWO, ALONE, TWO_JOBS = "fused", "fused, n_jobs=2", "n_jobs=1", "n_jobs=2"
WORKLOADS = [  # name, data, hidden layers, epochs
    ("569 x 30, (20,), 100 epochs", partial(load_breast_cancer, return_X_y=True), (20,), 100),
    ("1,797 x 64, (50,), 50 epochs", partial(load_digits, return_X_y=True), (50,), 50),
    (
        "10,000 x 20, (100,), 10 epochs",
        partial(make_classification, 10_000, 20, n_informative=10, random_state=0),
        (100,),
        10,
    ),
]


def make_search(net, n_rates=20, n_jobs=None, rate="learning_rate_init"):
    grid = {f"net__{rate}": np.geomspace(1e-4, 1e-1, n_rates)}
    pipeline = Pipeline([("scale", StandardScaler()), ("net", net)])
    return GridSearchCV(pipeline, grid, cv=5, n_jobs=n_jobs, refit=False)


def make_net(kind, hidden, epochs):
    settings = {"batch_size": 200, "max_iter": epochs, "tol": 0, "n_iter_no_change": 10_000, "random_state": 0}
    settings |= {"numeric_encoding": None} if kind is ScratchNNClassifier else {}  # the inputs of its peers
    return kind(hidden, alpha=1e-4, learning_rate="constant", **settings)  # the defaults differ


def fit_fused(search, X, y):
    with fused_fits():
        return search.fit(X, y)


def bench_searches():
    rows = []
    for name, load, hidden, epochs in pick(WORKLOADS):
        X, y = load()
        ours = make_net(ScratchNNClassifier, hidden, epochs)
        calls = {
            PEER: partial(make_search(make_net(MLPClassifier, hidden, epochs), n_jobs=2).fit, X, y),
            FUSED: partial(fit_fused, make_search(ours), X, y),
            FUSED_TWO: partial(fit_fused, make_search(ours, n_jobs=2), X, y),
            ALONE: partial(make_search(ours, n_jobs=1).fit, X, y),
            TWO_JOBS: partial(make_search(ours, n_jobs=2).fit, X, y),
        }
        seconds = time_rounds(calls, 5)
        rows.append(
            [
                name,
                *(f"{calc_ratio(seconds, slower, FUSED):.1f}" for slower in (PEER, ALONE, TWO_JOBS)),
                f"{np.median(seconds[FUSED]):.2f} s",
                f"{calc_ratio(seconds, PEER, FUSED_TWO):.1f}",
            ]
        )
    two_jobs = f"{PEER}, n_jobs=2"
    header = ["workload", two_jobs, "ours, n_jobs=1", "ours, n_jobs=2", "fused", f"{two_jobs} / fused, n_jobs=2"]
    print_table("GridSearchCV / fused in one process, and fused in two", header, rows)


def bench_skorch():
    rows = []
    for name, load, hidden, epochs in WORKLOADS[:1]:
        X, y = load()
        net = make_skorch_net(X.shape[1], hidden, 200, epochs)
        if net is None:
            return
        calls = {
            "skorch": partial(make_search(net, n_jobs=2, rate="lr").fit, X.astype(np.float32), y.astype(np.float32)),
            FUSED: partial(fit_fused, make_search(make_net(ScratchNNClassifier, hidden, epochs)), X, y),
        }
        seconds = time_rounds(calls, 1)
        rows.append([name, f"{calc_ratio(seconds, 'skorch', FUSED):.0f}"])
    print_table("GridSearchCV over skorch, n_jobs=2 / fused", ["workload", "ratio"], rows)


def bench_models():
    """Print the time per model for growing numbers of models."""
    name, load, hidden, epochs = WORKLOADS[0]
    X, y = load()
    rows = []
    for n_rates in pick((1, 2, 5, 20, 200)):
        ours = make_net(ScratchNNClassifier, hidden, epochs)
        seconds = time_rounds(
            {
                FUSED: partial(fit_fused, make_search(ours, n_rates), X, y),
                ALONE: partial(make_search(ours, min(n_rates, 20), n_jobs=1).fit, X, y),
            },
            3,
        )
        each = np.median(seconds[FUSED]) / (5 * n_rates)
        alone = np.median(seconds[ALONE]) / (5 * min(n_rates, 20))
        rows.append([f"{5 * n_rates}", f"{each * 1e3:.1f} ms", f"{alone * 1e3:.1f} ms"])
    print_table(f"A model of many ({name})", ["models", "fused, each", "one by one, each"], rows)


def bench_wide():
    """Print the ratio for wide networks: they gain nothing from fusion, and must not lose anything either."""
    X, y = make_classification(5_000, 100, n_informative=10, random_state=0)
    rows = []
    for hidden in pick([(100, 100), (256, 256), (512,)]):
        ours = make_search(make_net(ScratchNNClassifier, hidden, 5), 4)
        seconds = time_rounds({FUSED: partial(fit_fused, ours, X, y), ALONE: partial(clone(ours).fit, X, y)}, 5)
        rows.append([f"5,000 x 100, {hidden}", f"{calc_ratio(seconds, ALONE, FUSED):.2f}"])
    print_table("Wide networks: ours, n_jobs=1 / fused (4 learning rates)", ["workload", "ratio"], rows)


TABLES = {"searches": bench_searches, "skorch": bench_skorch, "models": bench_models, "wide": bench_wide}

if __name__ == "__main__":
    run_tables(TABLES)
