"""What two processes of `data_parallel` do in tests/test_parallel.py. Each writes its results to a file.

Usage: rank_uses.py folder, with torchrun's environment variables. Rank 1 kills itself at the end.
"""

import os
import pickle
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.distributed as dist
from scipy import sparse

from scratchnn import Checkpoint, ScratchNNClassifier, ScratchNNClassifierCV, data_parallel, fused_fits

FULL = {"hidden_layer_sizes": (5,), "batch_size": "full", "max_iter": 4, "dtype": "float64", "random_state": 0}
PLAIN = {**FULL, "numeric_encoding": None, "alpha": 0.1}
BOUNDS = (70, 120)  # rank 0 has the rows before the first, rank 1 those before the second
STEP = 12  # rows of each rank in a step, in the test of minibatches
N_EVEN = 60  # rows of each rank in this test


def make_rows():
    """Return X, y and weights. Class 2, and weights other than 1, are in the rows of rank 1 only."""
    rng = np.random.default_rng(0)
    X = rng.normal(3, 2, size=(BOUNDS[1], 4))
    X[:, 2] = np.round(X[:, 2])
    y = (X[:, 0] + rng.normal(size=len(X)) > 3).astype(int)
    y[110:] = 2
    weights = np.where(np.arange(len(X)) < BOUNDS[0], 1.0, 2.5)
    return X, y, weights


def make_frame():
    """Return a frame: missing numbers, and the category "new", are in the rows of rank 1 only."""
    X, y, _ = make_rows()
    kinds = np.array(["red", "blue", "green"], object)[np.arange(len(X)) % 3]
    kinds[100:110] = "new"
    kinds[3] = kinds[80] = "twice"
    frame = pd.DataFrame({"number": X[:, 0], "other": X[:, 1], "kind": pd.Series(kinds, dtype=object)})
    frame.loc[90:95, "other"] = np.nan
    return frame, y > 0


def take(rank, values):
    """Return the rows of a rank."""
    rows = slice(0, BOUNDS[0]) if rank == 0 else slice(*BOUNDS)
    return values.iloc[rows] if hasattr(values, "iloc") else values[rows]


def mean_squares(logits, deps):
    return (logits - deps).square().mean(-1)


def fit_full(rank):
    X, y, weights = (take(rank, each) for each in make_rows())
    classifier = ScratchNNClassifier(**FULL, class_weight="balanced", standardize=True)
    return classifier.fit(X, y, weights if rank == 1 else None)


def fit_frame(rank):
    frame, y = (take(rank, each) for each in make_frame())
    return ScratchNNClassifier(**FULL).fit(frame, y)


def fit_sparse(rank):
    X, y, _ = make_rows()
    return ScratchNNClassifier(**FULL).fit(sparse.csr_array(take(rank, np.where(X > 4, X, 0))), take(rank, y))


def fit_multilabel(rank):
    X, y, _ = make_rows()
    classifier = ScratchNNClassifier(**FULL, class_weight="balanced")
    return classifier.fit(take(rank, X), take(rank, np.stack([y > 0, X[:, 1] > 3], 1).astype(int)))


def fit_validated(rank):
    X, y, _ = (take(rank, each) for each in make_rows())
    classifier = ScratchNNClassifier(**{**PLAIN, "max_iter": 30, "learning_rate_init": 0.1}, early_stopping=True)
    classifier.set_params(scoring="accuracy", n_iter_no_change=3)
    X_val, y_val = X[1::2].copy(), y[1::2]
    if rank == 1:
        X_val[0, 1] = np.nan
    return classifier.fit(X[::2], y[::2], X_val=X_val, y_val=y_val, sample_weight_val=2.0 if rank == 1 else None)


def fit_twice(rank):
    X, y, _ = (take(rank, each) for each in make_rows())
    classifier = ScratchNNClassifier(**PLAIN, warm_start=True, learning_rate="constant")
    return classifier.fit(X, y).fit(X, y)


def fit_steps(rank):
    X, y, _ = make_rows()
    rows = slice(rank * N_EVEN, (rank + 1) * N_EVEN)
    classifier = ScratchNNClassifier(**{**PLAIN, "batch_size": 2 * STEP}, shuffle=False)
    return classifier.fit(X[rows], y[rows])


def fit_batches(rank):
    X, y, _ = (take(rank, each) for each in make_rows())
    classifier = ScratchNNClassifier((5,), batch_size=16, max_iter=6, early_stopping=True, dropout=0.2)
    return classifier.fit(X, y > 0)


FITS = {
    each.__name__: each
    for each in (
        fit_full,
        fit_frame,
        fit_sparse,
        fit_multilabel,
        fit_validated,
        fit_twice,
        fit_steps,
        fit_batches,
    )
}


def fit_in_thread(classifier, X, y):
    errors = []

    def fit():
        try:
            classifier.fit(X, y)
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=fit)
    thread.start()
    thread.join()
    raise errors[0]


def fit_fused(classifier, X, y):
    from sklearn.model_selection import cross_val_score

    with fused_fits():
        cross_val_score(classifier, X, y, error_score="raise")


def enter_twice():
    with data_parallel():
        pass


def list_mistakes(rank):
    """Return calls that must fail, by name."""
    X, y, _ = (take(rank, each) for each in make_rows())
    y = (y > 0).astype(int)
    plain = ScratchNNClassifier(**PLAIN)
    scored = ScratchNNClassifier(**PLAIN, scoring="roc_auc")
    X_wrong = np.where(np.arange(len(X))[:, None] == 5, np.inf, X) if rank == 1 else X
    y_wrong = np.zeros(len(y), int) if rank == 1 else y
    return {
        "parameters": lambda: ScratchNNClassifier(**PLAIN, learning_rate_init=0.1 * (rank + 1)).fit(X, y),
        "columns": lambda: plain.fit(X[:, : 4 - rank], y),
        "infinity": lambda: plain.fit(X_wrong, y),
        "types": lambda: plain.fit(X, y if rank else y.astype(str)),
        "validation": lambda: plain.fit(X, y, **({} if rank else {"X_val": X, "y_val": y})),
        "score": lambda: scored.fit(X, y, X_val=X, y_val=y_wrong),
        "lbfgs": lambda: ScratchNNClassifier(solver="lbfgs").fit(X, y),
        "partial_fit": lambda: plain.partial_fit(X, y, classes=[0, 1]),
        "cv": lambda: ScratchNNClassifierCV().fit(X, y),
        "fused": lambda: fit_fused(plain, X, y),
        "thread": lambda: fit_in_thread(plain, X, y),
        "checkpoint": lambda: fit_with_checkpoint(plain, X, y),
        "twice": enter_twice,
    }


def fit_with_checkpoint(network, X, y):
    with Checkpoint("never_written.npz"):
        network.fit(X, y)


def catch(call):
    try:
        call()
    except (ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def fit_late(rank, folder):
    """Fit, in rank 1 only when rank 0 has given up waiting."""
    with data_parallel(timeout=4):
        while rank == 1 and not (folder / "gave_up").exists():
            time.sleep(0.1)
        try:
            FITS["fit_steps"](rank)
        finally:
            (folder / "gave_up").touch()


def fit_until_killed(rank):
    X, y, _ = (take(rank, each) for each in make_rows())
    calls = []

    def loss(logits, deps):
        calls.append(0)
        if rank == 1 and len(calls) == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return mean_squares(logits, deps)

    ScratchNNClassifier(**{**PLAIN, "max_iter": 100}, loss=loss).fit(X, y)


def main():
    folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    torch.set_num_threads(1)
    results = {}
    with data_parallel() as ranks:
        results["ranks"] = ranks.rank, ranks.size
        results["fits"] = {name: fit(rank) for name, fit in FITS.items()}
    results["left"] = not dist.is_initialized()
    os.environ["MASTER_PORT"] = os.environ["SECOND_PORT"]
    dist.init_process_group("gloo")
    with data_parallel(timeout=30):
        results["errors"] = {name: catch(call) for name, call in list_mistakes(rank).items()}
        results["after"] = FITS["fit_steps"](rank)
    results["kept"] = dist.is_initialized()
    results["late"] = catch(lambda: fit_late(rank, folder))
    (folder / f"{rank}.pickle").write_bytes(pickle.dumps(results))
    start = time.monotonic()
    try:
        with data_parallel():
            fit_until_killed(rank)
    except RuntimeError as error:
        results["death"] = f"{type(error).__name__}: {error}", time.monotonic() - start
    (folder / f"{rank}.pickle").write_bytes(pickle.dumps(results))


if __name__ == "__main__":
    main()
