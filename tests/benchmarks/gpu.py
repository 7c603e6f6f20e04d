"""On a GPU against the CPU: fits of small and large networks, precisions, and fused searches.

``python tests/benchmarks/gpu.py`` prints all tables, in about five minutes, and writes them to a dated file. Pass table
names as arguments to print only those. "A step" is the time of a step of training: what a fit of twice the epochs takes
longer, divided by its steps. Run nothing else on the machine. ``--device cpu --smoke`` shows without a GPU that the
code runs.
"""

import sys
from functools import partial

import torch
from common import attempt, make_parser, pick, print_table, run_tables, time_call
from growth import Workload, fit_models, make_table, show, time_fits

FITS = [
    Workload(n_samples=1_000, hidden=(20,)),
    Workload(n_samples=20_000),
    Workload(n_samples=50_000, n_features=100, hidden=(256, 128), batch_size=1_000),
    Workload(n_samples=50_000, n_features=200, hidden=(1_024, 1_024), batch_size=5_000),
]
LARGE = [
    Workload(n_samples=40_000, n_features=1_000, hidden=(2_048, 2_048), batch_size=4_000),
    Workload(n_samples=40_000, n_features=2_000, hidden=(8_192, 8_192), batch_size=8_000),
]
SEARCHES = [
    Workload(n_samples=1_000, hidden=(20,), n_models=100),
    Workload(n_samples=1_000, hidden=(20,), n_models=1_000),
    Workload(n_samples=10_000, hidden=(100,), n_models=200),
]
DTYPES = ("float32", "tf32", "bfloat16")


def describe(workload: Workload) -> str:
    """Return what is fitted."""
    text = f"{workload.n_samples:,} x {workload.n_features:,}, {workload.hidden}, batch {workload.batch_size:,}"
    return f"{text}, {workload.n_models:,} models" if workload.n_models else text


def bench_fits(device: str) -> None:
    """Print the times of a fit and of a step on the CPU and on the device."""
    rows = []
    for workload in pick(FITS):
        table = make_table(workload)
        cells, steps = [], []
        for each in ("cpu", device):
            fit_models(workload, *table, device=each)  # libraries load what they need
            fit, epochs = time_fits(workload, *table, device=each)
            steps.append(epochs / workload.n_epochs / workload.n_steps)
            cells += [show(fit, "s"), show(steps[-1] * 1e6, "us")]
        rows.append([describe(workload), *cells, f"{steps[0] / steps[1]:.2f}"])
    header = ["workload", "CPU: a fit", "CPU: a step", "GPU: a fit", "GPU: a step", "a step: CPU / GPU"]
    print_table("Fits on the CPU and on the GPU", header, rows)


def bench_dtypes(device: str) -> None:
    """Print the time of a step of large networks in each precision."""
    rows = []
    for workload in pick([FITS[0]] if device == "cpu" else LARGE):
        table, cells = make_table(workload), []
        for dtype in DTYPES:
            fit_models(workload, *table, device=device, dtype=dtype)
            _, epochs = time_fits(workload, *table, device=device, dtype=dtype)
            cells.append(show(epochs / workload.n_epochs / workload.n_steps * 1e3, "ms"))
        rows.append([describe(workload), *cells])
    print_table("A step on the GPU by dtype", ["workload", *DTYPES], rows)


def bench_searches(device: str) -> None:
    """Print the time of a fused search on the CPU and on the device."""
    rows = []
    for workload in pick(SEARCHES):
        table, seconds = make_table(workload), []
        for each in ("cpu", device):
            fit_models(workload, *table, device=each, max_iter=1)  # libraries load what they need
            seconds.append(time_call(partial(fit_models, workload, *table, device=each)))
        rows.append([describe(workload), *(show(each, "s") for each in seconds), f"{seconds[0] / seconds[1]:.2f}"])
    print_table("Fused searches on the CPU and on the GPU", ["workload", "CPU", "GPU", "CPU / GPU"], rows)


TABLES = {"fits": bench_fits, "dtypes": bench_dtypes, "searches": bench_searches}


def main() -> None:
    """Print the tables that the command line names, or all."""
    parser = make_parser(TABLES)
    parser.add_argument("--device", default="cuda", help="'cpu' shows without a GPU that the benchmark runs")
    arguments = parser.parse_args()
    if torch.device(arguments.device).type == "cuda" and not torch.cuda.is_available():
        sys.exit("gpu.py needs a CUDA device, and PyTorch finds none. To see only that it runs: --device cpu --smoke.")
    tables = {name: partial(attempt, name, partial(bench, arguments.device)) for name, bench in TABLES.items()}
    run_tables(tables, arguments)


if __name__ == "__main__":
    main()
