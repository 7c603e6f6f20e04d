"""Kills fits with SIGKILL at random moments, continues them, and compares the final model with an uninterrupted one.

``python tests/benchmarks/kill.py --times 100`` prints a line for each fit: its parameters, and the epochs that the file
held after each kill. It ends with an error at the first difference of a bit, and at the first damaged file. It needs a
system with ``fork``.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
import traceback
import warnings
from itertools import cycle

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from scratchnn import Checkpoint, ScratchNNClassifier
from scratchnn.checkpoints.archive import Archive

KILLS_PER_FIT = 3
NOW = os.WNOHANG | os.WNOWAIT  # looks whether a process has ended, without waiting for it
SETTINGS = [
    {"dropout": 0.2},
    {"solver": "sgd", "learning_rate": "adaptive", "early_stopping": True, "dtype": "float64"},
    {"solver": "sgd", "momentum": 0.0, "learning_rate": "invscaling"},
    {"learning_rate": "one_cycle", "early_stopping": True},
]
CURVES = ["loss_curve_", "training_loss_curve_", "validation_loss_curve_", "validation_scores_", "n_iter_", "t_"]


def make_data():
    X = np.random.default_rng(0).normal(size=(300, 6))
    return X, (X[:, 0] + X[:, 1] ** 2 > 1).astype(int)


def fit(settings, path=None):
    """Fit a network that trains for 150 epochs, with a checkpoint at each epoch if there is a path."""
    network = ScratchNNClassifier((5,), max_iter=150, tol=0, n_iter_no_change=np.inf, random_state=0, **settings)
    if path is None:
        return network.fit(*make_data())
    with Checkpoint(path):
        return network.fit(*make_data())


def kill_fit(settings, path, rng):
    """Run a fit in another process, and kill it at a random moment. Return whether it was still at work.

    Most are killed soon after they have written their first file, some before.
    """
    before = read_time(path)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            fit(settings, path)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    waits_for_file = rng.random() < 0.8
    while waits_for_file and read_time(path) == before and not os.waitid(os.P_PID, pid, os.WEXITED | NOW):
        time.sleep(0.001)
    time.sleep(rng.uniform(0, 0.15))
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        sys.exit("the fit raised an error")
    return os.WIFSIGNALED(status)


def read_time(path):
    """Return when a file was written, or 0 if there is none."""
    try:
        return os.stat(path).st_mtime_ns
    except FileNotFoundError:
        return 0


def read_epochs(path):
    """Return the number of epochs in a file, or 0 if there is none yet."""
    contents = Archive(path).read()
    return 0 if contents is None else contents.values["n_epochs"]


def check_equal(model, other):
    for left, right in zip([*model.coefs_, *model.intercepts_], [*other.coefs_, *other.intercepts_], strict=True):
        np.testing.assert_array_equal(left, right)
    for name in CURVES:
        assert getattr(model, name) == getattr(other, name), name


def kill_and_continue(settings, rng, most):
    """Kill a fit up to ``most`` times, let it end, and compare it. Return the epochs in the file after each kill."""
    epochs = []
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/net.npz"
        while len(epochs) < most and kill_fit(settings, path, rng):
            epochs.append(read_epochs(path))
        check_equal(fit(settings, path), fit(settings))
    return epochs


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=100, help="how many kills")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    arguments = parser.parse_args()
    warnings.simplefilter("error")  # a damaged file would be a warning
    warnings.simplefilter("ignore", ConvergenceWarning)
    rng, n_left = np.random.default_rng(arguments.seed), arguments.times
    for settings in cycle(SETTINGS):
        epochs = kill_and_continue(settings, rng, min(n_left, KILLS_PER_FIT))
        print(f"{settings}: killed after epochs {epochs}, and equal", flush=True)
        n_left -= len(epochs)
        if n_left == 0:
            break
    print(f"{arguments.times} kills, all models equal")


if __name__ == "__main__":
    main()
