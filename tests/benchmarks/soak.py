"""2,000 fits and 200 fused searches in one process: memory, threads and open files must not grow.

``python tests/benchmarks/soak.py`` takes about three minutes on two cores, prints the figures at the start, in the
middle and at the end, and fails if the second half adds to them.
"""

import gc
import sys
import threading
import warnings

import numpy as np
import psutil
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV

from scratchnn import ScratchNNClassifier, fused_fits

N_FITS, N_SEARCHES = 2000, 200
N_WARMING_UP = 5  # searches, and ten times as many fits, in which libraries load what they need
TOLERANCE = {"memory in MB": 3.0, "threads": 0, "threads of Python": 0, "open files": 0}


def measure() -> dict[str, float]:
    """Return what this process holds."""
    gc.collect()
    process = psutil.Process()
    return {
        "memory in MB": process.memory_info().rss / 2**20,
        "threads": process.num_threads(),
        "threads of Python": threading.active_count(),
        "open files": process.num_fds() if hasattr(process, "num_fds") else process.num_handles(),
    }


def fit_in_turn(number: int, X: np.ndarray, y: np.ndarray) -> None:
    """Fit a network, of another kind in each of four turns, and predict."""
    changes = [{}, {"solver": "lbfgs"}, {"early_stopping": True}, {"hidden_layer_sizes": ()}][number % 4]
    model = ScratchNNClassifier(**({"hidden_layer_sizes": (10,), "max_iter": 3, "random_state": number} | changes))
    model.fit(X, y).predict_proba(X)
    if number % 4 == 0:
        model.partial_fit(X, y)


def search(X: np.ndarray, y: np.ndarray) -> None:
    """Make a fused search of twelve fits."""
    network = ScratchNNClassifier((10,), max_iter=3, random_state=0)
    with fused_fits():
        GridSearchCV(network, {"alpha": [0.01, 0.1, 1.0, 10.0]}, cv=3).fit(X, y)


def work(n_fits: int, n_searches: int) -> None:
    """Fit and search in turn, so that each half has both."""
    X, y = load_iris(return_X_y=True)
    per_search = n_fits // n_searches
    for number in range(n_searches):
        search(X, y)
        for fit in range(per_search):
            fit_in_turn(number * per_search + fit, X, y)


def main() -> None:
    """Measure at the start, in the middle and at the end, and exit with 1 if the second half has added something."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    work(10 * N_WARMING_UP, N_WARMING_UP)
    figures = [measure()]
    for _ in range(2):
        work(N_FITS // 2, N_SEARCHES // 2)
        figures.append(measure())
    print(f"{'':20}{'start':>10}{'middle':>10}{'end':>10}")
    for name in TOLERANCE:
        print(f"{name:20}" + "".join(f"{each[name]:10.1f}" for each in figures))
    grown = [name for name, most in TOLERANCE.items() if figures[2][name] - figures[1][name] > most]
    if grown:
        print(f"grew from the middle to the end: {', '.join(grown)}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
