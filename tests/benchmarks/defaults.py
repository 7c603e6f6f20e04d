"""Fits of ScratchNNClassifier and of MLPClassifier in which all parameters are left as they are.

``python tests/benchmarks/defaults.py`` prints the table in about two minutes. The networks differ: 200 neurons and bins
against 100 neurons. So the ratio says how long one waits, not which code is faster, which is what ``fit.py`` measures.
"""

from functools import partial

import numpy as np
from common import PEER, calc_ratio, pick, print_table, run_tables, time_rounds
from sklearn.datasets import make_classification
from sklearn.neural_network import MLPClassifier

from scratchnn import ScratchNNClassifier

OURS = "ScratchNNClassifier"
WORKLOADS = [(500, 30), (1_000, 20), (3_000, 20), (10_000, 20)]  # samples, features


def bench_defaults():
    """Print the medians of three fits of each."""
    rows = []
    for shape in pick(WORKLOADS):
        X, y = make_classification(*shape, n_informative=10, random_state=0)
        classifiers = {PEER: MLPClassifier(random_state=0), OURS: ScratchNNClassifier(random_state=0)}
        seconds = time_rounds({name: partial(each.fit, X, y) for name, each in classifiers.items()}, 3)
        ours, peer = (f"{np.median(seconds[name]):.2f} s" for name in (OURS, PEER))
        rows.append(["{:,} x {}".format(*shape), f"{calc_ratio(seconds, PEER, OURS):.2f}", ours, peer])
    print_table("Fit with all defaults", ["workload", f"{PEER} / ours", "ours", PEER], rows)


TABLES = {"defaults": bench_defaults}

if __name__ == "__main__":
    run_tables(TABLES)
