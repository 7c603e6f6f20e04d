"""On a GPU: steps against skorch and a plain loop, large networks, fused models from 1 to 10,000, and a fused search.

``python tests/benchmarks/gpu.py`` prints all tables, in about ten minutes on a large GPU, and writes them to a dated
file after each. Pass table names as arguments to print only those. All run on the same GPU, MLPClassifier on all CPU
cores, with the same data, architecture, solver, batch size and number of epochs. Timings alternate, and a ratio is the
median over rounds. Run nothing else on the machine. ``--device cpu --smoke`` shows without a GPU that the code runs.
"""

import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from common import (
    IS_SMOKE,
    PEER,
    attempt,
    calc_ratio,
    finish_gpu_work,
    make_module,
    make_parser,
    make_skorch_net,
    print_table,
    run_tables,
    time_call,
)
from growth import Workload, fit_models, make_table, show
from joblib import cpu_count
from search import fit_fused, make_net, make_search
from sklearn.datasets import load_breast_cancer
from sklearn.neural_network import MLPClassifier
from watch import measure_product, watch_training

from scratchnn import ScratchNNClassifier

OURS, PLAIN, SKORCH = "ours", "plain loop", "skorch"
N_ROUNDS = 3
N_JOBS = 1 if IS_SMOKE else cpu_count()  # of peers: starting processes takes seconds
N_CANDIDATES, N_FOLDS = 1_000, 5
SAMPLE_SECONDS = 10.0  # of a peer's search of a sample of the candidates, about, or what a fit for each process takes
DTYPES = ("float32", "tf32", "bfloat16")


class Net(NamedTuple):
    """A network and its data."""

    n_rows: int
    n_columns: int
    hidden: tuple[int, ...]
    batch_size: int
    n_epochs: int  # of the shorter of two fits, in which everything is done that is done once

    def __str__(self) -> str:
        return f"{self.n_rows:,} x {self.n_columns:,}, {self.hidden}, batch {self.batch_size:,}"

    @property
    def n_steps(self) -> int:
        """Steps of an epoch."""
        return math.ceil(self.n_rows / self.batch_size)

    @property
    def n_flops(self) -> int:
        """Floating-point operations of the products of a step. No gradient of the inputs is needed."""
        sizes = (self.n_columns, *self.hidden, 1)
        products = [before * after for before, after in pairwise(sizes)]
        return 2 * self.batch_size * (3 * sum(products) - products[0])

    def make_table(self) -> tuple[np.ndarray, np.ndarray]:
        """Return float32 rows and two classes."""
        return make_table(Workload(n_rows=self.n_rows, n_columns=self.n_columns))


TINY = Net(1_000, 20, (10,), 200, 2)  # of --smoke
SMALL = [
    Net(10_000, 20, (100,), 200, 5),
    Net(20_000, 50, (100,), 200, 4),
    Net(50_000, 100, (256, 128), 1024, 4),
    Net(100_000, 200, (1024, 1024), 4096, 4),
]
LARGE = [
    Net(32_768, 1024, (2048, 2048), 4096, 2),
    Net(32_768, 2048, (4096, 4096), 8192, 2),
    Net(32_768, 4096, (8192, 8192), 8192, 2),
]
FUSED = [  # what is fitted, and how often
    (Workload(n_rows=1_000, hidden=(20,)), [1, 10, 100, 1_000, 10_000]),
    (Workload(n_rows=10_000, hidden=(100,)), [1, 10, 100, 1_000]),
]
TINY_FUSED = (Workload(n_rows=200, hidden=(20,)), [1, 10])
SEARCHES = [  # name, data, hidden layers, epochs
    ("569 x 30, (20,), 100 epochs", partial(load_breast_cancer, return_X_y=True), (20,), 100),
    ("5,000 x 50, (256,), 200 epochs", partial(make_table, Workload(n_rows=5_000, n_columns=50)), (256,), 200),
]
TINY_SEARCH = ("569 x 30, (20,), 2 epochs", *SEARCHES[0][1:3], 2)
HAS_SKORCH = find_spec("skorch") is not None


def fit_ours(net: Net, X: np.ndarray, y: np.ndarray, device: str, n_epochs: int, dtype: str = "float32") -> float:
    """Return the seconds in which our network trains."""
    settings = {"alpha": 0.0, "learning_rate": "constant", "learning_rate_init": 0.001, "numeric_encoding": None}
    settings |= {"max_iter": n_epochs, "tol": 0, "n_iter_no_change": np.inf, "random_state": 0}
    classifier = ScratchNNClassifier(net.hidden, batch_size=net.batch_size, device=device, dtype=dtype, **settings)
    with watch_training() as training:
        classifier.fit(X, y)
    return training.seconds


def fit_plain(net: Net, X: np.ndarray, y: np.ndarray, device: str, n_epochs: int, dtype: str = "float32") -> float:
    """Return the seconds of a plain loop, whose rows are on the device, as ours are."""
    module = make_module(net.n_columns, net.hidden).to(device)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.001, fused=True)
    rows = torch.from_numpy(X).to(device)
    targets = torch.from_numpy(y).to(device, torch.float32).unsqueeze(1)
    finish_gpu_work()
    start = time.perf_counter()
    for _ in range(n_epochs):
        for batch in torch.randperm(len(rows), device=device).split(net.batch_size):
            with torch.autocast(rows.device.type, torch.bfloat16) if dtype == "bfloat16" else nullcontext():
                logits = module(rows[batch])
            optimizer.zero_grad()
            F.binary_cross_entropy_with_logits(logits.float(), targets[batch]).backward()
            optimizer.step()
    finish_gpu_work()
    return time.perf_counter() - start


def fit_skorch(net: Net, X: np.ndarray, y: np.ndarray, device: str, n_epochs: int) -> float:
    """Return the seconds of skorch's epochs, as it measures them. It reads the loss of each step from the GPU."""
    peer = make_skorch_net(net.n_columns, net.hidden, net.batch_size, n_epochs, device)
    peer.fit(X, y.astype(np.float32))
    return float(sum(peer.history[:, "dur"]))


def time_steps(net: Net, fits: dict[str, Callable[[int], float]]) -> dict[str, list[float]]:
    """Return the seconds of a step by each of the fits, which take turns. The first round does not count.

    They are those by which a fit of three times the epochs takes longer, without what a fit does once. A fit that fails
    is left out from then on.
    """

    def time_step(fit: Callable[[int], float]) -> float:
        few, many = fit(net.n_epochs), fit(3 * net.n_epochs)
        return (many - few) / (2 * net.n_epochs * net.n_steps)

    seconds: dict[str, list[float]] = {name: [] for name in fits}
    for _ in range(1 + (1 if IS_SMOKE else N_ROUNDS)):
        for name in list(seconds):
            step = attempt(f"{name}, {net}", partial(time_step, fits[name]))
            if step is None:
                del seconds[name]
            else:
                seconds[name].append(step)
    return {name: steps[1:] for name, steps in seconds.items()}


def show_step(seconds: dict[str, list[float]], name: str) -> str:
    """Return the median time of one, which may be missing."""
    return show(statistics.median(seconds[name]) * 1e6, "us") if name in seconds else "not run"


def show_ratio(seconds: dict[str, list[float]], slower: str, faster: str) -> str:
    """Return the ratio of the times of two, of which either may be missing."""
    return f"{calc_ratio(seconds, slower, faster):.2f}" if slower in seconds and faster in seconds else "not run"


def bench_steps(device: str) -> None:
    """Print the time of a step against skorch's and a plain loop's. Checks and the copy to the GPU do not count."""
    rows = []
    for net in [TINY] if IS_SMOKE else SMALL:
        table = net.make_table()
        fits = {OURS: fit_ours, PLAIN: fit_plain} | ({SKORCH: fit_skorch} if HAS_SKORCH else {})
        seconds = time_steps(net, {name: partial(fit, net, *table, device) for name, fit in fits.items()})
        cells = [show_step(seconds, name) for name in (OURS, PLAIN, SKORCH)]
        rows.append([str(net), *cells, *(show_ratio(seconds, peer, OURS) for peer in (PLAIN, SKORCH))])
        print(", ".join(rows[-1]), flush=True)
    header = ["network", OURS, PLAIN, SKORCH, f"{PLAIN} / ours", f"{SKORCH} / ours"]
    print_table("A step of training", header, rows)


@contextmanager
def using_tf32(dtype: str) -> Iterator[None]:
    """Let PyTorch's float32 products use TF32 if that is the ``dtype``."""
    torch.set_float32_matmul_precision("high" if dtype == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


def measure_peak(dtype: str, device: str) -> float:
    """Return the floating-point operations per second of the fastest of some large products in a precision."""
    with using_tf32(dtype):
        kind = torch.bfloat16 if dtype == "bfloat16" else torch.float32
        sizes = [256] if IS_SMOKE else [4096, 8192, 16384]
        return max(measure_product(size, device, kind, n_rounds=3) for size in sizes)


def fit_plain_in(dtype: str, net: Net, X: np.ndarray, y: np.ndarray, device: str, n_epochs: int) -> float:
    """Return the seconds of a plain loop in a precision."""
    with using_tf32(dtype):
        return fit_plain(net, X, y, device, n_epochs, dtype)


def bench_large(device: str) -> None:
    """Print what share of the matrix peak of each precision large networks reach."""
    known = ScratchNNClassifier._parameter_constraints["dtype"][0].options
    dtypes = [dtype for dtype in DTYPES if dtype in known and (dtype != "tf32" or device != "cpu")]
    if missing := set(DTYPES) - set(dtypes):
        print(f"not measured, as this version or device lacks it: {', '.join(missing)}", flush=True)
    peaks = {dtype: measure_peak(dtype, device) for dtype in dtypes}
    rows = [[f"a square product, {dtype}", "", f"{peak / 1e12:.3g}", "", "", ""] for dtype, peak in peaks.items()]
    for net in [TINY] if IS_SMOKE else LARGE:
        table = net.make_table()
        for dtype, peak in peaks.items():
            fits = {OURS: partial(fit_ours, net, *table, device, dtype=dtype)}
            fits[PLAIN] = partial(fit_plain_in, dtype, net, *table, device)
            seconds = time_steps(net, fits)
            shares = {name: net.n_flops / statistics.median(steps) / peak for name, steps in seconds.items()}
            if OURS not in seconds:
                continue
            step = statistics.median(seconds[OURS])
            cells = [f"{net.n_flops / step / 1e12:.3g}", f"{shares[OURS]:.0%}"]
            cells += [f"{shares[PLAIN]:.0%}" if PLAIN in shares else "failed", show_ratio(seconds, PLAIN, OURS)]
            rows.append([f"{net}, {dtype}", show(step * 1e3, "ms"), *cells])
            print(", ".join(rows[-1]), flush=True)
    header = ["what", "a step", "TFLOP/s", "share of the peak", f"share of the {PLAIN}", f"{PLAIN} / ours"]
    print_table("Large networks", header, rows)


def bench_models(device: str) -> None:
    """Print the time per model for growing numbers of fused models."""
    for workload, numbers in [TINY_FUSED] if IS_SMOKE else FUSED:
        X, y = make_table(workload)
        fit_models(replace(workload, n_models=2), X, y, device=device)  # libraries load what they need
        rows = []
        for n_models in numbers:
            search = partial(fit_models, replace(workload, n_models=n_models), X, y, device=device)
            with watch_training() as training:
                taken = attempt(f"{n_models} models", partial(time_call, search))
            if taken is not None:
                each = [show(seconds / n_models * 1e3, "ms") for seconds in (taken, training.seconds)]
                rows.append([f"{n_models:,}", show(taken, "s"), *each])
                print(", ".join(rows[-1]), flush=True)
        title = f"A model of many: {workload.n_rows:,} x {workload.n_columns}, {workload.hidden}, batch 200, 20 epochs"
        print_table(title, ["models", "fused search", "a model", "of it training"], rows)


def search_mlp(X: np.ndarray, y: np.ndarray, hidden: tuple[int, ...], n_candidates: int, epochs: int) -> None:
    """Search with MLPClassifier on all CPU cores."""
    make_search(make_net(MLPClassifier, hidden, epochs), n_candidates, n_jobs=N_JOBS).fit(X, y)


def search_skorch(
    device: str, n_jobs: int, X: np.ndarray, y: np.ndarray, hidden: tuple[int, ...], n_candidates: int, epochs: int
) -> None:
    """Search with skorch on a device, from one process or several."""
    net = make_skorch_net(X.shape[1], hidden, 200, epochs, device)
    make_search(net, n_candidates, n_jobs=n_jobs, rate="lr").fit(X, y.astype(np.float32))


def list_peers(device: str) -> dict[str, tuple[Callable[..., None], int]]:
    """Return the searches of the peers, and how many fits each makes at a time."""
    peers: dict[str, tuple[Callable[..., None], int]] = {f"{PEER}, all {N_JOBS} cores": (search_mlp, N_JOBS)}
    if HAS_SKORCH:
        peers[f"skorch on {device}, one process"] = partial(search_skorch, device, 1), 1
        peers[f"skorch on {device}, {N_JOBS} processes"] = partial(search_skorch, device, N_JOBS), N_JOBS
    return peers


def time_sample(search: Callable[[int, int], None], epochs: int, n_jobs: int, n_candidates: int) -> tuple[int, float]:
    """Return how many candidates were measured, and the seconds that all would take at the same time for each.

    They are so many that no process is ever without a fit, and more if these take much less than ``SAMPLE_SECONDS``.
    """
    n_even = n_jobs // math.gcd(n_jobs, N_FOLDS)
    search(n_even, 1)  # the processes start
    n_sampled, seconds = n_even, time_call(partial(search, n_even, epochs))
    n_more = min(int(SAMPLE_SECONDS / seconds) * n_even, n_candidates)
    if n_more > n_sampled:
        n_sampled, seconds = n_more, time_call(partial(search, n_more, epochs))
    return n_sampled, seconds * n_candidates / n_sampled


def compare_searches(
    name: str, load: Callable[[], Any], hidden: tuple[int, ...], epochs: int, n_candidates: int, device: str
) -> list[list[str]]:
    """Return the rows of a search: ours, then the peers'."""
    X, y = load()
    X = X.astype(np.float32)
    ours = make_net(ScratchNNClassifier, hidden, epochs).set_params(device=device)
    fit_fused(make_search(ours, 2), X, y)  # libraries load what they need
    with watch_training() as training:
        fused = time_call(partial(fit_fused, make_search(ours, n_candidates), X, y))
    rows = [[f"{name}: {OURS}", f"{n_candidates:,}", show(fused, "s"), "1"]]
    print(f"{', '.join(rows[-1])}; training {training.seconds:.3g} s", flush=True)
    for peer, (search, n_jobs) in list_peers(device).items():
        call = partial(time_sample, partial(search, X, y, hidden), epochs, n_jobs, n_candidates)
        if (sampled := attempt(f"{peer}: {name}", call)) is not None:
            rows.append([f"{name}: {peer}", f"{sampled[0]:,}", show(sampled[1], "s"), f"{sampled[1] / fused:.3g}"])
            print(", ".join(rows[-1]), flush=True)
    return rows


def bench_search(device: str) -> None:
    """Print the time of a search by fused fits, and that of the peers' searches, of which samples are measured."""
    rows = []
    n_candidates = 8 if IS_SMOKE else N_CANDIDATES
    for search in [TINY_SEARCH] if IS_SMOKE else SEARCHES:
        rows += attempt(search[0], partial(compare_searches, *search, n_candidates, device)) or []
    title = f"A search of {n_candidates:,} candidates x {N_FOLDS} folds; that of a peer from a sample of the candidates"
    print_table(title, ["search", "candidates measured", "all candidates", "/ ours"], rows)


TABLES = {"steps": bench_steps, "large": bench_large, "models": bench_models, "search": bench_search}


def run_section(name: str, bench: Callable[[str], None], device: str) -> None:
    """Print a table, or why it failed."""
    warnings.filterwarnings("always", "CUDA graphs")  # whose failure makes steps slow
    attempt(name, partial(bench, device))


def main() -> None:
    """Print the tables that the command line names, or all."""
    parser = make_parser(TABLES)
    parser.add_argument("--device", default="cuda", help="'cpu' shows without a GPU that the benchmark runs")
    arguments = parser.parse_args()
    if torch.device(arguments.device).type == "cuda" and not torch.cuda.is_available():
        sys.exit("gpu.py needs a CUDA device, and PyTorch finds none. To see only that it runs: --device cpu --smoke.")
    if not HAS_SKORCH:
        print("skorch is not installed, and is left out: pip install -c .ci/constraints.txt skorch", flush=True)
    tables = {name: partial(run_section, name, bench, arguments.device) for name, bench in TABLES.items()}
    run_tables(tables, arguments)


if __name__ == "__main__":
    main()
