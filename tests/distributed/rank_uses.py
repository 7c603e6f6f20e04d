"""What two processes of `data_parallel` do in tests/test_parallel.py. Each writes its results to a file.

Usage, with torchrun's environment variables: rank_uses.py folder. Rank 1 kills itself at the end, in a fit with a
checkpoint. rank_uses.py folder resume, under torchrun, continues this fit. Rank 1 kills itself once more in it.
"""

import os
import pickle
import signal
import sys
import threading
import time
import warnings
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.distributed as dist
from crashes import count_epochs, crash_after
from scipy import sparse

from scratchnn import Checkpoint, ScratchNNClassifier, data_parallel, fused_fits
from scratchnn.checkpoints.archive import open_archive, read_file

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


class Planned:
    """A loss that in rank 1 calls a function, ``act``, when it is called for the time of this number, ``at``."""

    n_calls, at, act = 0, None, None


def planned_loss(logits, deps):
    Planned.n_calls += 1
    if Planned.n_calls == Planned.at:
        Planned.act()
    return mean_squares(logits, deps)


def fit_planned(rank, at=None, act=None):
    """Fit for 10 epochs, each of 8 steps and 9 calls of the loss."""
    Planned.n_calls, Planned.at, Planned.act = 0, at if rank == 1 else None, act
    X, y, _ = (take(rank, each) for each in make_rows())
    changes = {"loss": planned_loss, "batch_size": 16, "max_iter": 10, "dropout": 0.2, "learning_rate": "constant"}
    classifier = ScratchNNClassifier(**{**PLAIN, **changes, "n_iter_no_change": np.inf})
    return classifier.fit(X, y).set_params(loss="log_loss")  # which can be loaded outside this script


def fail():
    raise ValueError("the loss has failed")


def interrupt():
    raise KeyboardInterrupt


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


class Callback:
    """A callback of scikit-learn that calls a function at the begin of the fit, or at the end of the second epoch."""

    def __init__(self, at, act):
        self.at, self.act = at, act

    def setup(self, estimator, context):
        pass

    teardown = setup

    def on_fit_task_begin(self, estimator, context):
        return self.act() if self.at == "begin" else None

    def on_fit_task_end(self, estimator, context):
        return self.act() if (context.task_name, context.task_id) == (self.at, 1) else None


HAS_CALLBACKS = hasattr(ScratchNNClassifier, "set_callbacks")  # with scikit-learn from 1.9 on


def with_callback(rank, *args):
    """Return a network that has a callback in rank 1."""
    classifier = ScratchNNClassifier(**PLAIN)
    return classifier.set_callbacks(Callback(*args)) if rank == 1 else classifier


RESUMED = {  # settings of fits that crash and are resumed
    "dropout": {"dropout": 0.2},
    "early stopping": {"early_stopping": True, "learning_rate_init": 0.1, "n_iter_no_change": 2, "scoring": "accuracy"},
    "full batch": {"batch_size": "full", "solver": "sgd", "learning_rate": "adaptive"},
    "warm start": {"warm_start": True},
    "seed of the system": {"random_state": None},
}


def resume(rank, folder, settings):
    """Return a fit without a crash, one that continued after a crash in rank 1, and a third one, with their epochs."""
    X, y, _ = (take(rank, each) for each in make_rows())
    settings = {**PLAIN, "batch_size": 16, "max_iter": 6, "n_iter_no_change": np.inf, **settings}
    start = pickle.dumps(ScratchNNClassifier(**settings))
    if "warm_start" in settings:
        start = pickle.dumps(pickle.loads(start).fit(X, y))

    def fit():
        with count_epochs() as epochs:
            model = pickle.loads(start).fit(X, y)
        return model, len(epochs)

    fits = [fit()]
    with Checkpoint(f"{folder}/", every=2):
        with crash_after(1, RuntimeError("crash")) if rank == 1 else nullcontext():
            message = catch(fit)
        return {"error": message, "fits": [*fits, fit(), fit()]}


def stop_early(rank, folder):
    """Return the epochs of fits that a callback in rank 1 stops."""
    X, y, _ = (take(rank, each) for each in make_rows())
    plain = with_callback(rank, "epoch", lambda: True).fit(X, y)
    with Checkpoint(folder / "stopped.npz"):
        return [plain.n_iter_, *(with_callback(rank, "epoch", lambda: True).fit(X, y).n_iter_ for _ in range(2))]


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


def list_mistakes(rank, folder):
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
        "twice": enter_twice,
        "no rows": lambda: plain.fit(X[: 0 if rank else None], y[: 0 if rank else None]),
        "weights": lambda: plain.fit(X, y, np.full(len(X), 1.0 - rank)),
        **list_mistakes_with_checkpoints(rank, folder, X, y),
        **(list_failing_callbacks(rank, folder, X, y) if HAS_CALLBACKS else {}),
    }


def list_mistakes_with_checkpoints(rank, folder, X, y):
    plain = ScratchNNClassifier(**PLAIN)

    def fit(checkpoint, n_rows=None):
        with checkpoint:
            plain.fit(X[:n_rows], y[:n_rows])

    def fit_with_file_in_use():
        with open_archive(f"{folder}/in_use.npz", "") if rank == 0 else nullcontext():
            fit(Checkpoint(folder / "in_use.npz"))

    fit(Checkpoint(folder / "net.npz"))
    return {
        "rows": lambda: fit(Checkpoint(folder / "net.npz"), n_rows=40 if rank else None),
        "every": lambda: fit(Checkpoint(folder / "net.npz", every=1 + rank)),
        "checkpoint": lambda: fit(nullcontext() if rank else Checkpoint(folder / "net.npz")),
        "file": fit_with_file_in_use,
    }


def list_failing_callbacks(rank, folder, X, y):
    def fit_with_checkpoint():
        with Checkpoint(folder / "failed.npz"):
            with_callback(rank, "epoch", fail).fit(X, y)

    return {
        "callback": lambda: with_callback(rank, "epoch", fail).fit(X, y),
        "callback at the beginning": lambda: with_callback(rank, "begin", fail).fit(X, y),
        "callback with checkpoint": fit_with_checkpoint,
    }


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


def enter_and_fit(rank, *args):
    with data_parallel():
        return fit_planned(rank, *args)


def use_all(rank, folder):
    """Return the results of all uses by name. The context is entered several times, also after errors."""
    results = {}
    with data_parallel() as ranks:
        results["ranks"] = ranks.rank, ranks.size
        results["fits"] = {name: fit(rank) for name, fit in FITS.items()}
        results["resumed"] = {name: resume(rank, folder, settings) for name, settings in RESUMED.items()}
        results["stopped"] = stop_early(rank, folder) if HAS_CALLBACKS else None
    results["left"] = not dist.is_initialized()
    results["ends"] = {act.__name__: catch(lambda act=act: enter_and_fit(rank, 22, act)) for act in (fail, interrupt)}
    results["planned"] = enter_and_fit(rank)
    dist.init_process_group("gloo")
    with data_parallel(timeout=30):
        results["errors"] = {name: catch(call) for name, call in list_mistakes(rank, folder).items()}
        results["after"] = FITS["fit_steps"](rank)
    results["kept"] = dist.is_initialized()
    results["late"] = catch(lambda: fit_late(rank, folder))
    return results


def resume_killed(rank, folder):
    """Return a fit that continues from the checkpoint, the epochs that it found there, and those that it trained."""
    path = folder / "killed.npz"
    n_before = read_file(path).values["n_epochs"] if rank == 0 else None
    at, act = (31, kill) if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" else (None, None)
    with Checkpoint(path), count_epochs() as epochs:
        model = enter_and_fit(rank, at, act)
    return model, n_before, len(epochs)


def main():
    folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UserWarning)  # of Ctrl-C, and of epochs that did not suffice
    if sys.argv[2:] == ["resume"]:
        (folder / f"resumed_{rank}.pickle").write_bytes(pickle.dumps(resume_killed(rank, folder)))
        return
    results = use_all(rank, folder)
    (folder / f"{rank}.pickle").write_bytes(pickle.dumps(results))
    start = time.monotonic()
    with Checkpoint(folder / "killed.npz"):
        results["death"] = catch(lambda: enter_and_fit(rank, 40, kill)), time.monotonic() - start
    (folder / f"{rank}.pickle").write_bytes(pickle.dumps(results))


if __name__ == "__main__":
    main()
