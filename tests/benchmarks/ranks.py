"""Seconds of a fit by two processes of `data_parallel`, with half of the rows and one thread each, against one process.

Run: python tests/benchmarks/ranks.py. The two processes need a core each. Where other work runs on the cores, the ratio
of the processor times is an upper limit of what two free cores would give.
"""

import os
import socket
import statistics
import subprocess
import sys
import time

from common import pick, print_table, run_tables

N_ROUNDS = 5
WORKLOADS = [  # rows, columns, hidden neurons, rows of a batch
    (20_000, 20, 100, 200),
    (100_000, 50, 400, 1000),
    (50_000, 200, 1000, 5000),
]
CODE = """
import sys, time
import numpy as np, torch
from scratchnn import ScratchNNClassifier, data_parallel
n_rows, n_columns, n_hidden, batch_size = map(int, sys.argv[1:])
torch.set_num_threads(1)
rng = np.random.default_rng(0)
X = rng.normal(size=(n_rows, n_columns)).astype(np.float32)
y = (X[:, 0] * X[:, 1] + rng.normal(size=n_rows) > 0).astype(int)
classifier = ScratchNNClassifier((n_hidden,), batch_size=batch_size, numeric_encoding=None, max_iter=5, alpha=1.0,
                                 tol=0, n_iter_no_change=np.inf, random_state=0)
with data_parallel() as ranks:
    rows = slice(ranks.rank, None, ranks.size)
    classifier.set_params(max_iter=1).fit(X[rows], y[rows])
    start = time.perf_counter(), time.process_time()
    classifier.set_params(max_iter=5).fit(X[rows], y[rows])
    if ranks.rank == 0:
        print(time.perf_counter() - start[0], time.process_time() - start[1])
"""


def time_ranks(size: int, workload: tuple[int, ...]) -> tuple[float, float]:
    """Return the seconds of a fit by ``size`` processes, and the processor time of the first in seconds."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {**os.environ, "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    env |= {"OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": str(size)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CODE, *map(str, workload)],
            env={**env, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise RuntimeError("a process of the benchmark failed")
    time.sleep(0.3)
    seconds, processor_seconds = outputs[0].split()
    return float(seconds), float(processor_seconds)


def compare_sizes() -> None:
    """Print the table of one process against two."""
    rows = []
    for workload in pick(WORKLOADS):
        pairs = [[time_ranks(size, workload) for size in (1, 2)] for _ in range(len(pick(range(N_ROUNDS))))]
        cells = []
        for kind in range(2):
            ones, twos = ([each[kind] for each in column] for column in zip(*pairs, strict=True))
            ratio = statistics.median(one / two for one, two in zip(ones, twos, strict=True))
            cells += [f"{statistics.median(ones):.2f} s", f"{statistics.median(twos):.2f} s", f"{ratio:.2f}"]
        rows.append([*(f"{each:,}" for each in workload), *cells])
    header = ["rows", "columns", "hidden", "batch", "one process", "two processes", "ratio"]
    header += ["processor time", "of each of two", "ratio of these"]
    print_table("Five epochs by processes of one thread", header, rows)


if __name__ == "__main__":
    run_tables({"ranks": compare_sizes})
