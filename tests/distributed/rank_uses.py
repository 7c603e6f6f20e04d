"""What two processes of `data_parallel` do for test_data_parallel.py. Each writes its results to a file.

Usage: rank_uses.py folder [resume]. Without "resume" rank 1 kills itself in the last fit, with it this fit continues.
"""

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import warnings
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
from crashes import crash_after
from scipy import sparse
from sklearn.model_selection import cross_val_score

from scratchnn import Checkpoint, ScratchNNClassifier, data_parallel, fused_fits
from scratchnn.checkpoints.archive import open_archive

RANK = int(os.environ.get("RANK", "0"))
FULL = {"hidden_layer_sizes": (5,), "batch_size": "full", "max_iter": 4, "dtype": "float64", "random_state": 0}
PLAIN = {**FULL, "numeric_encoding": None, "alpha": 0.1}

# 120 samples, of which rank 0 has the first 70. Class 2, other weights than 1, missing values and the category "new"
# are in the samples of rank 1 only.
rng = np.random.default_rng(0)
X = rng.normal(3, 2, size=(120, 4))
X[:, 2] = np.round(X[:, 2])
Y = (X[:, 0] + rng.normal(size=120) > 3).astype(int)
Y[110:] = 2
WEIGHTS = np.where(np.arange(120) < 70, 1.0, 2.5)
KINDS = np.array(["red", "blue", "green"], object)[np.arange(120) % 3]
KINDS[100:110], KINDS[[3, 80]] = "new", "twice"
FRAME = pd.DataFrame({"number": X[:, 0], "other": X[:, 1], "kind": pd.Series(KINDS, dtype=object)})
FRAME.loc[90:95, "other"] = np.nan


def take_own(values):
    """Return the samples of this rank."""
    own = slice(70, None) if RANK else slice(70)
    return values.iloc[own] if hasattr(values, "iloc") else values[own]


def fit(take, X, y, weights=None, **params):
    """Fit the samples of a rank, or those of both in one process: what ``take`` returns."""
    weights = None if weights is None or (take(weights) == 1).all() else take(weights)
    return ScratchNNClassifier(**{**FULL, **params}).fit(take(X), take(y), weights)


def fit_validated(take):
    """Fit with early stopping. A validation sample of rank 1 lacks a value, and only those of rank 1 have weights."""
    X_own, y, weights = take(np.where(np.arange(480).reshape(120, 4) == 285, np.nan, X)), take(Y), take(WEIGHTS)
    params = {**PLAIN, "max_iter": 60, "learning_rate_init": 0.1, "early_stopping": True, "n_iter_no_change": 2}
    validation = {
        "X_val": X_own[1::2],
        "y_val": y[1::2],
        "sample_weight_val": weights[1::2] if weights[-1] > 1 else None,
    }
    return ScratchNNClassifier(**params).fit(X_own[::2], y[::2], **validation)


def fit_steps(take):
    """Fit two steps an epoch. Rank 1 has one sample, for the first. One process takes the samples step by step."""
    own = take(np.arange(71))
    own = np.r_[:35, 70, 35:70] if len(own) == 71 else own
    return ScratchNNClassifier(**{**PLAIN, "batch_size": 36}, shuffle=False).fit(X[own], Y[own])


AS_ALONE = {  # fits whose model is that of one process
    "weights": lambda take: fit(take, X, Y, WEIGHTS, class_weight="balanced"),
    "bins": lambda take: fit(take, X, np.array(["a", "bb", "ccc"])[Y], WEIGHTS, numeric_encoding="piecewise"),
    "frame": lambda take: fit(take, FRAME, Y > 0),
    "many classes": lambda take: fit(take, sparse.csr_array(np.where(X > 4, X, 0)), np.arange(120) // 3),
    "multilabel": lambda take: fit(take, X, np.stack([Y > 0, X[:, 1] > 3], 1).astype(int), class_weight="balanced"),
    "validated": fit_validated,
    "twice": lambda take: fit(take, X, Y, warm_start=True, learning_rate="constant").fit(take(X), take(Y)),
    "steps": fit_steps,
}


def fit_dtypes():
    """Fit without a seed. Rank 1 has samples of another dtype."""
    params = {"batch_size": 16, "early_stopping": True, "dropout": 0.2, "numeric_encoding": "piecewise"}
    X_own = take_own(X).astype(np.float32 if RANK else np.float64)
    return ScratchNNClassifier((5,), max_iter=6, **params).fit(X_own, take_own(Y) > 0)


PLAN = {"n_calls": 0, "at": None, "act": None}  # of a loss that calls the function ``act`` in a call, and counts these


def planned_loss(logits, deps):
    PLAN["n_calls"] += 1
    if PLAN["n_calls"] == PLAN["at"]:
        PLAN["act"]()
    return (logits - deps).square().mean(-1)


def fit_planned(at=None, act=None, **changes):
    """Fit for 10 epochs, each of 8 steps and 9 calls of the loss. ``act`` is for rank 1."""
    PLAN.update(n_calls=0, at=at if RANK else None, act=act)
    params = {"loss": planned_loss, "batch_size": 16, "max_iter": 10, "n_iter_no_change": np.inf, **changes}
    return fit(take_own, X, Y > 0, **{**PLAIN, **params}).set_params(loss="log_loss")  # which any script can load


fail, interrupt = Mock(side_effect=ValueError("failed")), Mock(side_effect=KeyboardInterrupt)
kill = partial(os.kill, os.getpid(), signal.SIGKILL)
RESUMED = {  # parameters of fits that crash and are resumed
    "dropout": {"dropout": 0.2},
    "early stopping": {"early_stopping": True, "solver": "sgd", "learning_rate": "adaptive"},
    "seed of the system": {"random_state": None},
}


def resume(folder, params):
    """Return three fits with their calls of the loss: without a crash, after a crash in rank 1, and once more."""
    fits = [(fit_planned(**params), PLAN["n_calls"])]
    with Checkpoint(f"{folder}/", every=2):
        with crash_after(1, RuntimeError("crash")) if RANK else nullcontext():
            message = catch(lambda: fit_planned(**params))
        return message, [*fits, *((fit_planned(**params), PLAN["n_calls"]) for _ in range(2))]


def enter(call, timeout=20):
    with data_parallel(timeout=timeout):
        return call()


def catch(call, *args):
    """Return the error of a call in words."""
    start = time.monotonic()
    try:
        call(*args)
    except (Exception, KeyboardInterrupt) as error:
        assert time.monotonic() - start < 15  # no rank waits for the timeout
        return f"{type(error).__name__}: {error}"
    return "no error"


def fit_elsewhere(kind):
    """Fit in a thread or a forked process, and raise the error from there."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    worker = kind(target=lambda: sender.send(catch(fit_planned)))
    worker.start()
    worker.join()
    fit_planned()  # this thread can still fit
    raise RuntimeError(receiver.recv())


def fit_fused():
    with fused_fits():
        cross_val_score(ScratchNNClassifier(**PLAIN), take_own(X), take_own(Y > 0), error_score="raise")


def fit_late(folder):
    """Fit, in rank 1 only when rank 0 has stopped waiting."""
    while RANK == 1 and not (folder / "stopped").exists():
        time.sleep(0.1)
    try:
        fit_planned()
    finally:
        (folder / "stopped").touch()


def list_mistakes(folder):
    """Return calls that must fail, and what their errors say. Those "of rank 1" are mistakes of this rank alone."""
    X_own, y = take_own(X), (take_own(Y) > 0).astype(int)
    X_wrong = np.where(np.arange(len(X_own))[:, None] == 5, np.inf, X_own) if RANK else X_own
    plain, fitted = ScratchNNClassifier(**PLAIN), ScratchNNClassifier(**PLAIN, warm_start=True).fit(X_own, y)
    few, validation = (slice(2), {}) if RANK else (slice(None), {"X_val": X_own, "y_val": y})
    net = Checkpoint(folder / "net.npz")

    def fit(*args, checkpoint=None, **params):
        with checkpoint or nullcontext():
            return ScratchNNClassifier(**{**PLAIN, **params}).fit(*(args or (X_own, y)))

    def fit_with_file_in_use():
        with nullcontext() if RANK else open_archive(f"{folder}/used.npz", ""):
            fit(checkpoint=Checkpoint(folder / "used.npz"))

    enter(lambda: fit(checkpoint=net))
    same = "must be the same in all processes of data_parallel, got"
    return {
        "parameters": (lambda: fit(learning_rate_init=0.1 * (RANK + 1)), f"ValueError: learning_rate_init {same} 0."),
        "columns": (lambda: fit(X_own[:, : 4 - RANK], y), "same columns in all processes of data_parallel, got 4 col"),
        "types": (lambda: fit(X_own, y if RANK else y.astype(str)), "ValueError: y must be of one type in all proces"),
        "divergence": (lambda: fit(solver="sgd", learning_rate_init=1e200), "DivergenceError: Training diverged"),
        "lbfgs": (lambda: fit(solver="lbfgs"), "ValueError: solver must be 'adam' or 'sgd' inside data_parallel, got"),
        "scoring": (lambda: fit(scoring="accuracy"), "ValueError: scoring must be 'loss' inside data_parallel, got"),
        "partial_fit": (lambda: plain.partial_fit(X_own, y, classes=[0, 1]), "ValueError: partial_fit must not be u"),
        "fused": (fit_fused, "ValueError: fused_fits must not be used inside data_parallel"),
        "thread": (lambda: fit_elsewhere(threading.Thread), "RuntimeError: Inside data_parallel, fit must be called"),
        "fork": (lambda: fit_elsewhere(multiprocessing.get_context("fork").Process), "RuntimeError: Inside data_par"),
        "twice": (lambda: enter(None), "ValueError: data_parallel contexts must not be nested"),
        "models": (lambda: fitted.fit(X_own, y), f"ValueError: coefs_ and intercepts_ {same[:-5]} to resume"),
        "fits": (lambda: [fit() for _ in range(1 + RANK)], "ValueError: fit must be called as often in all processes"),
        "every": (lambda: fit(checkpoint=Checkpoint(folder / "net.npz", 1 + RANK)), f"every of Checkpoint {same} "),
        "file": (fit_with_file_in_use, "InUseError: path of Checkpoint must be a file for one fit at a time, got"),
        "parameter of rank 1": (lambda: fit(tol=-1 if RANK else 0.1), "InvalidParameterError: The 'tol' parameter"),
        "X of rank 1": (lambda: fit(X_wrong, y), "ValueError: Input X contains infinity"),
        "X_val of rank 1": (lambda: plain.fit(X_own, y, X_val=X_wrong, y_val=y), "ValueError: The validation data,"),
        "no X_val of rank 1": (lambda: plain.fit(X_own, y, **validation), "ValueError: X_val and y_val must be given"),
        "no samples of rank 1": (lambda: fit(X_own[: -1000 * RANK or None], y), "ValueError: Found array with 0 samp"),
        "split of rank 1": (lambda: fit(X_own[few], y[few], early_stopping=True), "ValueError: The validation set is"),
        "weights of rank 1": (lambda: fit(X_own, y, np.full(len(y), 1.0 - RANK)), "ValueError: sample_weight must h"),
        "samples of rank 1": (lambda: fit(X_own[few], y[few], checkpoint=net), "but X is 'float64 of shape (2, 4)"),
        "error before fit of rank 1": (lambda: fail() if RANK else fit(), "ValueError: failed"),
    }


def use_all(folder):
    """Return the results of all uses by name. The context is entered several times, also after errors."""
    results = {}
    with data_parallel() as ranks:
        results["ranks"] = tuple(ranks)
        results["fits"] = {name: fit(take_own) for name, fit in AS_ALONE.items()}
        results["dtypes"] = fit_dtypes()
        results["resumed"] = {name: resume(folder, params) for name, params in RESUMED.items()}
        results["caught"] = catch(lambda: fit_planned(max_iter=1 + RANK)), fit_steps(take_own)
    results["errors"] = {name: (catch(enter, call), text) for name, (call, text) in list_mistakes(folder).items()}
    results["failed"] = catch(enter, lambda: fit_planned(22, fail))
    results["interrupted"] = catch(enter, lambda: fit_planned(22, interrupt))
    results["late"] = catch(enter, lambda: fit_late(folder), 2)
    results["planned"] = enter(fit_planned)
    return results


def main():
    folder = Path(sys.argv[1])
    warnings.simplefilter("ignore", UserWarning)  # of Ctrl-C, and of epochs that did not suffice
    is_first = sys.argv[2:] != ["resume"]
    results = use_all(folder) if is_first else {}
    file = folder / f"{RANK}{''.join(sys.argv[2:])}.pickle"
    file.write_bytes(pickle.dumps(results))
    with Checkpoint(folder / "killed.npz"):
        death = catch(enter, lambda: results.update(killed=fit_planned(40 if is_first else None, kill)))
    file.write_bytes(pickle.dumps({**results, "death": death, "n_calls": PLAN["n_calls"]}))


if __name__ == "__main__":
    main()
