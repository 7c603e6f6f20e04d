"""Searches on many workers: what two give, and what a model expects of up to 256.

Run: python tests/benchmarks/cluster.py. It takes some five minutes, needs two free cores, and prints these tables:

- portions: the processor time of a portion by its number of models, in one thread.
- costs: what a search takes beside its portions: the caller's work for each call, Dask's for each portion, and sending
  the data.
- two: a fused search in one process against the same on two workers of loky and of Dask, and what the model expects.
- expected: the model for 2 to 256 workers. Portions as `cut_portions` makes them go to the next free worker, each in a
  time around the measured one. One worker may take twice as long. Sending the data and the caller's work for all
  calls come before the first portion, as if nothing overlapped.

The last two use the figures of the first two, and measure them if need be.
"""

import functools
import heapq
import math
import pickle
import statistics
import time
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import joblib
import numpy as np
from common import calc_ratio, pick, print_table, run_tables, time_call, time_rounds
from scratchnn.fusion.portions import cut_portions
from search import WORKLOADS, fit_fused, make_net, make_search
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.model_selection import StratifiedKFold

from scratchnn import ScratchNNClassifier, fused_fits
from scratchnn.fusion.workers import AHEAD_PER_WORKER, MOST_AHEAD, name_process, run_portion
from scratchnn.training.threads import use_threads

N_FOLDS = 5
SIZES = (8, 16, 32, 64, 128, 256, 512)
N_ROUNDS = 7  # timings of each portion
N_DRAWS = 20  # simulations of each search
N_WORKERS = (2, 4, 8, 16, 32, 64, 128, 256)
N_CANDIDATES = (1_000, 10_000)
SLOWDOWN = 2  # of the slow worker
LENGTH = 10  # of longer fits, in those that are measured
NAME, LOAD, HIDDEN, EPOCHS = WORKLOADS[0]
LARGE = 20_000_000  # bytes of the table whose way to the workers is timed


class DoingNothing(ClassifierMixin, BaseEstimator):
    """A classifier without training, so that a search takes the time of all else."""

    def __init__(self, learning_rate_init=0.1):
        self.learning_rate_init = learning_rate_init

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict(self, X):
        return np.full(len(X), self.classes_[0])


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


def make_workload_search(n_candidates, **settings):
    return make_search(make_net(ScratchNNClassifier, HIDDEN, EPOCHS), n_candidates, **settings)


def fit_on_workers(backend, search, X, y):
    with fused_fits(backend=backend, n_jobs=2):
        return search.fit(X, y)


def bench_two():
    X, y = LOAD()
    rows, model = {}, Model()
    for name, workers in (("loky", nullcontext()), ("dask", start_dask())):  # one after the other: both need the cores
        with workers:
            for n_candidates in pick((20, 100, 400)):
                search = make_workload_search(n_candidates)
                fused, on_workers = (
                    functools.partial(fit_fused, search),
                    functools.partial(fit_on_workers, name, search),
                )
                seconds = time_rounds({"one": lambda f=fused: f(X, y), "two": lambda f=on_workers: f(X, y)}, 3)
                row = rows.setdefault(n_candidates, [f"{statistics.median(seconds['one']):.1f} s"])
                row.append(f"{calc_ratio(seconds, 'one', 'two'):.2f}")
    cells = [
        [f"{N_FOLDS * n_candidates:,}", *row, f"{model.calc_speed_up(n_candidates, n_workers=2):.2f}"]
        for n_candidates, row in rows.items()
    ]
    header = ["fits", "one process", "one process / two of loky", "one process / two of Dask", "expected"]
    print_table(f"A fused search on two workers ({NAME})", header, cells)


def fit_and_score(model, X, y, train, test):
    return clone(model).fit(X[train], y[train]).score(X[test], y[test])


def make_calls(n_models, X, y):
    """Return calls of joblib's for candidates of one fold, as a portion of a large search has them."""
    train, test = next(StratifiedKFold(N_FOLDS).split(X, y))
    model = make_workload_search(1).estimator
    nested = joblib.parallel.get_active_backend()
    return [
        joblib.parallel.BatchedCalls(
            [(fit_and_score, (clone(model).set_params(net__learning_rate_init=rate), X, y, train, test), {})], nested
        )
        for rate in np.geomspace(1e-4, 1e-1, n_models)
    ]


@functools.cache
def measure_portions():
    """Return the seconds of portions by their numbers of models: of processor time, which a free core would take."""
    X, y = LOAD()
    calls = {size: make_calls(size, X, y) for size in pick(SIZES)}
    seconds = {size: [] for size in calls}
    for _ in pick(range(N_ROUNDS)):
        for size in calls:
            start = time.process_time()
            with use_threads(0, most=1):
                run_portion(calls[size], 1, name_process())
            seconds[size].append(time.process_time() - start)
    return seconds


def calc_scatter(timings):
    """Return the standard deviation of the logarithms of timings of the same work."""
    return statistics.stdev(map(math.log, timings)) if len(timings) > 1 else 0.0


def bench_portions():
    rows = [
        [str(size), f"{median:.2f} s", f"{median / size * 1e3:.1f} ms", f"{calc_scatter(timings):.1%}"]
        for size, timings in measure_portions().items()
        for median in [statistics.median(timings)]
    ]
    print_table(f"A portion in one thread ({NAME})", ["models", "seconds", "each model", "scatter"], rows)


@functools.cache
def measure_costs():
    """Return seconds: of the caller for each call, of Dask for each portion, and to send a byte and to fetch one."""
    X, y = LOAD()
    search = make_search(DoingNothing(), pick([20, 1000])[-1])
    n_calls = N_FOLDS * len(search.param_grid["net__learning_rate_init"])
    table = np.random.default_rng(0).integers(0, 256, LARGE, dtype=np.uint8)
    with start_dask() as client:
        fit_on_workers("dask", search, X, y)
        start = time.thread_time()
        fit_on_workers("dask", search, X, y)
        for_call = (time.thread_time() - start) / n_calls
        client.gather(client.map(abs, range(200), pure=False))
        for_portion = time_call(lambda: client.gather(client.map(abs, range(500), pure=False))) / 500
        to_one = time_call(lambda: client.scatter(table, hash=False))
        to_both = time_call(lambda: client.scatter(table, hash=False, broadcast=True))
    calls = make_calls(SIZES[-1], X, y)
    for_call += time_call(lambda: pickle.loads(pickle.dumps(calls))) / len(
        calls
    )  # in another thread, when they are sent
    return SimpleNamespace(
        call=for_call, portion=for_portion, byte=to_one / LARGE, copied_byte=max(0.0, to_both - to_one) / LARGE
    )


def bench_costs():
    costs = measure_costs()
    rows = [
        ["the caller, each call", f"{costs.call * 1e3:.2f} ms"],
        ["Dask, each portion", f"{costs.portion * 1e3:.2f} ms"],
        ["a table to the first worker, each MB", f"{costs.byte * 1e9:.1f} ms"],
        ["from worker to worker, each MB", f"{costs.copied_byte * 1e9:.1f} ms"],
    ]
    print_table("What a search on two workers of Dask costs beside its portions", ["work", "time"], rows)


@functools.cache
def cut_search(n_calls, n_workers):
    """Return the sizes of the portions of a search."""
    folds = [np.arange(fold + 1) for fold in range(N_FOLDS)]
    calls = [SimpleNamespace(items=[(len, (folds[k % N_FOLDS],), {})]) for k in range(n_calls)]
    return [len(portion) for portion in cut_portions(calls, n_workers)]


class Model:
    """Expected times of a search, from measured ones. Fits take ``length`` times as long as those of the workload."""

    def __init__(self, length=1):
        portions, self.costs = measure_portions(), measure_costs()
        self.sizes = np.array(list(portions), dtype=float)
        self.seconds = length * np.array([statistics.median(timings) for timings in portions.values()])
        self.scatter = statistics.median(calc_scatter(timings) for timings in portions.values())
        self.n_bytes = len(pickle.dumps(LOAD()))

    def calc_portion(self, size):
        """Return the seconds of a portion: those of a model, interpolated over the logarithm of the size, for each."""
        return size * np.interp(math.log(size), np.log(self.sizes), self.seconds / self.sizes)

    def simulate(self, n_calls, n_workers, slowdown, rng):
        """Return the seconds of a search on so many workers, of which one takes ``slowdown`` times as long."""
        # Workers copy the data to others, so that twice as many have them after each step.
        total = self.n_bytes * (self.costs.byte + self.costs.copied_byte * math.log2(n_workers))
        n_left = n_calls
        while n_left:
            n_dealt = min(n_left, 2 * AHEAD_PER_WORKER * n_workers, 2 * MOST_AHEAD)
            total += n_dealt * self.costs.call + self._simulate_portions(n_dealt, n_workers, slowdown, rng)
            n_left -= n_dealt
        return total

    def _simulate_portions(self, n_calls, n_workers, slowdown, rng):
        free = [(0.0, worker) for worker in range(n_workers)]
        for number, size in enumerate(cut_search(n_calls, n_workers), start=1):
            end, worker = heapq.heappop(free)
            start = max(end, number * self.costs.portion)  # Dask's scheduler sends them one after another
            taken = self.calc_portion(size) * rng.lognormal(0, self.scatter) * (slowdown if worker == 0 else 1)
            heapq.heappush(free, (start + taken, worker))
        return max(end for end, _ in free)

    def calc_speed_up(self, n_candidates, n_workers, slowdown=1):
        """Return how many times as long one process takes, at its best rate, as so many workers: a median."""
        n_calls = N_FOLDS * n_candidates
        rng = np.random.default_rng(0)
        seconds = [self.simulate(n_calls, n_workers, slowdown, rng) for _ in pick(range(N_DRAWS))]
        return n_calls * min(self.seconds / self.sizes) / statistics.median(seconds)


def bench_expected():
    few, many = N_CANDIDATES
    short, long = Model(), Model(LENGTH)
    columns = {
        f"{few:,} x {N_FOLDS}": functools.partial(short.calc_speed_up, few),
        "one slow": functools.partial(short.calc_speed_up, few, slowdown=SLOWDOWN),
        f"{many:,} x {N_FOLDS}": functools.partial(short.calc_speed_up, many),
        "one slow ": functools.partial(short.calc_speed_up, many, slowdown=SLOWDOWN),
        f"{few:,} x {N_FOLDS}, longer": functools.partial(long.calc_speed_up, few),
        f"{many:,} x {N_FOLDS}, longer": functools.partial(long.calc_speed_up, many),
    }
    rows = [
        [str(n_workers), *(f"{calc(n_workers=n_workers):.1f}" for calc in columns.values())] for n_workers in N_WORKERS
    ]
    print_table(f"Expected: one process / workers ({NAME}; longer: {LENGTH} times)", ["workers", *columns], rows)


TABLES = {"portions": bench_portions, "costs": bench_costs, "two": bench_two, "expected": bench_expected}

if __name__ == "__main__":
    run_tables(TABLES)
