"""Searches on several workers: a fused search in one process against the same on two workers of loky and of Dask.

Run: python tests/benchmarks/cluster.py. It takes some three minutes, and needs two free cores.
"""

import functools
import statistics
from contextlib import contextmanager, nullcontext

import joblib
from common import calc_ratio, pick, print_table, run_tables, time_rounds
from search import WORKLOADS, fit_fused, make_net, make_search

from scratchnn import ScratchNNClassifier, fused_fits

N_FOLDS = 5
NAME, LOAD, HIDDEN, EPOCHS = WORKLOADS[0]


@contextmanager
def start_dask():
    """Start two workers of Dask with a thread each, and with the settings of memory that the guide recommends."""
    import dask
    import distributed

    where = {"host": "127.0.0.1", "dashboard_address": None, "n_workers": 2, "threads_per_worker": 1}
    spawn = "distributed.nanny.pre-spawn-environ."
    memory = {f"{spawn}MALLOC_MMAP_THRESHOLD_": 2**25, f"{spawn}MALLOC_TRIM_THRESHOLD_": 2**27}
    with dask.config.set(memory), distributed.LocalCluster(**where) as cluster, distributed.Client(cluster) as client:
        yield client


def fit_on_workers(backend, search, X, y):
    with joblib.parallel_config(backend, n_jobs=2), fused_fits():
        return search.fit(X, y)


def bench_two():
    X, y = LOAD()
    rows = {}
    for name, workers in (("loky", nullcontext()), ("dask", start_dask())):  # one after the other: both need the cores
        with workers:
            for n_candidates in pick((20, 100, 400)):
                search = make_search(make_net(ScratchNNClassifier, HIDDEN, EPOCHS), n_candidates)
                fused = functools.partial(fit_fused, search)
                on_workers = functools.partial(fit_on_workers, name, search)
                seconds = time_rounds({"one": lambda f=fused: f(X, y), "two": lambda f=on_workers: f(X, y)}, 3)
                row = rows.setdefault(n_candidates, [f"{statistics.median(seconds['one']):.1f} s"])
                row.append(f"{calc_ratio(seconds, 'one', 'two'):.2f}")
    cells = [[f"{N_FOLDS * n_candidates:,}", *row] for n_candidates, row in rows.items()]
    header = ["fits", "one process", "one process / two of loky", "one process / two of Dask"]
    print_table(f"A fused search on two workers ({NAME})", header, cells)


if __name__ == "__main__":
    run_tables({"two": bench_two})
