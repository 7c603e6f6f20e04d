"""Fits by two processes of `data_parallel`, each with half of the samples, against one process of one or two threads.

``python tests/benchmarks/ranks.py`` prints the table in about two minutes. It needs two free cores.
"""

import os
import socket
import statistics
import subprocess
import sys
import time

from common import pick, print_table, run_tables

WORKLOADS = [(20_000, 20, 100, 200), (100_000, 50, 400, 1_000), (50_000, 200, 1_000, 5_000)]
HEADER = ["samples", "features", "hidden layer", "batch"]  # of a workload
KINDS = {"one process": (1, 1), "two processes": (2, 1), "two threads": (1, 2)}  # processes, threads of each
CODE = """
import sys, time
import numpy as np, torch
from scratchnn import ScratchNNClassifier, data_parallel
n_threads, n_samples, n_features, n_hidden, batch_size = map(int, sys.argv[1:])
torch.set_num_threads(n_threads)
rng = np.random.default_rng(0)
X = rng.normal(size=(n_samples, n_features)).astype(np.float32)
y = (X[:, 0] * X[:, 1] + rng.normal(size=n_samples) > 0).astype(int)
classifier = ScratchNNClassifier((n_hidden,), batch_size=batch_size, numeric_encoding=None, max_iter=5, alpha=1.0,
                                 tol=0, n_iter_no_change=np.inf, random_state=0)
with data_parallel() as ranks:
    own = slice(ranks.rank, None, ranks.size)
    classifier.set_params(max_iter=1).fit(X[own], y[own])
    start = time.perf_counter()
    classifier.set_params(max_iter=5).fit(X[own], y[own])
    print(time.perf_counter() - start)
"""


def time_ranks(size: int, n_threads: int, workload: tuple[int, ...]) -> float:
    """Return the seconds of a fit by ``size`` processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {**os.environ, "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    env |= {"OMP_NUM_THREADS": str(n_threads), "LOCAL_WORLD_SIZE": str(size)}
    command = [sys.executable, "-c", CODE, str(n_threads), *map(str, workload)]
    processes = [
        subprocess.Popen(command, env={**env, "RANK": rank, "LOCAL_RANK": rank}, stdout=subprocess.PIPE, text=True)
        for rank in map(str, range(size))
    ]
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise RuntimeError("a process of the benchmark failed")
    time.sleep(0.3)
    return float(outputs[0])


def bench_ranks() -> None:
    """Print the medians of five fits of each kind, which take turns."""
    rows = []
    for workload in pick(WORKLOADS):
        rounds = [[time_ranks(*kind, workload) for kind in KINDS.values()] for _ in pick(range(5))]
        one, two, threads = (statistics.median(each) for each in zip(*rounds, strict=True))
        cells = [f"{one:.2f} s", f"{two:.2f} s", f"{one / two:.2f}", f"{threads:.2f} s"]
        rows.append([*(f"{each:,}" for each in workload), *cells])
    header = [*HEADER, "one process", "two processes", "ratio", "two threads"]
    print_table("Five epochs, with one thread for each process", header, rows)


TABLES = {"ranks": bench_ranks}

if __name__ == "__main__":
    run_tables(TABLES)
