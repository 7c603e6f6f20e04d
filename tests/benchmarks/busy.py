"""Fits and fused searches while other processes keep the cores busy, as on a shared machine.

``python tests/benchmarks/busy.py`` prints all tables, in about fifteen minutes, and writes them to a dated file. The
other processes run an empty loop. Peers and data are those of ``fit.py`` and ``search.py``. Run nothing else.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
from common import PEER, calc_ratio, pick, print_table, run_tables, time_rounds
from fit import OURS, WORKLOADS, describe, make_data, make_fit
from search import FUSED, fit_fused, make_net, make_search
from search import WORKLOADS as SEARCHES
from sklearn.datasets import make_classification
from sklearn.neural_network import MLPClassifier

from scratchnn import ScratchNNClassifier

DEFAULTS = [(750, 48, 2), (3_340, 18, 7), (15_000, 20, 2)]  # samples, features, classes
N_BUSY = (0, 1, 2, 7)


@contextmanager
def busy_processes(number: int) -> Iterator[None]:
    """Run processes that never rest."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def time_alone_and_busy(calls, n_rounds):
    """Return the seconds of each call alone, and beside a busy core."""
    alone = time_rounds(calls, n_rounds)
    with busy_processes(1):
        busy = time_rounds(calls, n_rounds)
    return alone, busy


def calc_slowdown(alone, busy, name):
    return f"{np.median(busy[name]) / np.median(alone[name]):.2f}"


def bench_fits():
    rows = []
    for *shape, batch_size, epochs, n_rounds in pick(WORKLOADS):
        X, y = make_data(*shape[:2])
        kinds = {PEER: MLPClassifier, OURS: ScratchNNClassifier}
        calls = {name: make_fit(kind, X, y, shape[2], batch_size, epochs) for name, kind in kinds.items()}
        alone, busy = time_alone_and_busy(calls, n_rounds)
        ratios = [f"{calc_ratio(seconds, PEER, OURS):.2f}" for seconds in (alone, busy)]
        slowdowns = [calc_slowdown(alone, busy, name) for name in (OURS, PEER)]
        rows.append([describe(*shape, batch_size, epochs), *ratios, *slowdowns])
    header = ["workload", f"{PEER} / ours, alone", "busy", "ours: busy / alone", f"{PEER}: busy / alone"]
    print_table("Fits while another process keeps a core busy", header, rows)


def bench_defaults():
    rows = []
    for n_samples, n_features, n_classes in pick(DEFAULTS):
        X, y = make_classification(n_samples, n_features, n_informative=10, n_classes=n_classes, random_state=0)
        kinds = {PEER: MLPClassifier, OURS: ScratchNNClassifier}
        calls = {name: partial(kind(random_state=0).fit, X, y) for name, kind in kinds.items()}
        row, alone = [f"{n_samples:,} x {n_features}, {n_classes} classes"], None
        for number in N_BUSY:
            with busy_processes(number):
                seconds = time_rounds(calls, 3)
            alone = alone or seconds
            row.append(f"{calc_slowdown(alone, seconds, OURS)} ({calc_ratio(seconds, PEER, OURS):.1f})")
        rows.append(row)
    header = ["default fit", *(f"{number} busy" for number in N_BUSY)]
    print_table(f"Default fits: busy / alone ({PEER} / ours)", header, rows)


def bench_searches():
    rows = []
    for name, load, hidden, epochs in pick(SEARCHES):
        X, y = load()
        calls = {
            FUSED: partial(fit_fused, make_search(make_net(ScratchNNClassifier, hidden, epochs)), X, y),
            PEER: partial(make_search(make_net(MLPClassifier, hidden, epochs), n_jobs=2).fit, X, y),
        }
        alone, busy = time_alone_and_busy(calls, 3)
        ratios = [f"{calc_ratio(seconds, PEER, FUSED):.1f}" for seconds in (alone, busy)]
        rows.append([name, *ratios, calc_slowdown(alone, busy, FUSED), calc_slowdown(alone, busy, PEER)])
    header = ["workload", f"{PEER}, n_jobs=2 / fused, alone", "busy", "fused: busy / alone", f"{PEER}: busy / alone"]
    print_table("Fused searches in one process while another keeps a core busy", header, rows)


TABLES = {"fits": bench_fits, "defaults": bench_defaults, "searches": bench_searches}

if __name__ == "__main__":
    run_tables(TABLES)
