"""Fits with a checkpoint: they continue after a crash to the same bits, and a file of another fit is refused."""

import os
import pickle
import subprocess
import sys
from contextlib import nullcontext
from pathlib import PurePosixPath

import numpy as np
import pytest
from crashes import Crash, assert_equal_models, count_epochs, crash_after
from helpers import ALL_EPOCHS, DEVICES, ROOT, make_table
from joblib import Parallel, delayed, parallel_config
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scratchnn import Checkpoint, ScratchNNClassifier, fused_fits
from scratchnn.checkpoints import Archive

X, y = make_table(120, 4, n_informative=2)
WEIGHTS = np.where(X[:, 2] > 0, 2.0, 0.5)
needs_callbacks = pytest.mark.skipif(
    not hasattr(ScratchNNClassifier, "set_callbacks"), reason="scikit-learn has callbacks from 1.9 on"
)
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.npz"


def network(**changes):
    settings = {"hidden_layer_sizes": (5,), "max_iter": 8, "random_state": 0, "numeric_encoding": None}
    return ScratchNNClassifier(**(settings | ALL_EPOCHS | changes))


def read_values(path):
    return Archive(str(path)).read().values


def list_files(folder):
    return [name for name in os.listdir(folder) if name.endswith(".npz")]


def fit_after_crash(make, path, X=X, y=y, **data):
    """Fit in two processes, as it were: one that dies after three epochs, and one that continues."""
    with Checkpoint(path):
        with crash_after(3), pytest.raises(Crash):
            make().fit(X, y, **data)
        with count_epochs() as epochs:
            model = make().fit(X, y, **data)
    assert len(epochs) == model.n_iter_ - 3
    return model


SETTINGS = {
    "adam": {},
    "one_cycle": {"learning_rate": "one_cycle", "dtype": "float64"},
    "momentum": {"solver": "sgd", "batch_size": "full"},
    "momentum without nesterov": {"solver": "sgd", "nesterovs_momentum": False, "learning_rate": "constant"},
    "plain sgd": {"solver": "sgd", "momentum": 0.0, "shuffle": False},
    "adaptive": {"solver": "sgd", "learning_rate": "adaptive", "tol": 0.2, "n_iter_no_change": 1},
    "invscaling": {"solver": "sgd", "learning_rate": "invscaling", "class_weight": "balanced"},
    "annealing": {"learning_rate": "cosine", "tol": 1.0, "n_iter_no_change": 1, "max_iter": 30},
    "patience": {"early_stopping": True, "learning_rate_init": 0.3, "n_iter_no_change": 2, "max_iter": 50},
    "scoring": {"early_stopping": True, "scoring": "accuracy"},
    "dropout": {"dropout": 0.3},
    "bins": {"numeric_encoding": "piecewise"},
    "no hidden layer": {"hidden_layer_sizes": (), "random_state": np.random.RandomState(3)},
}


@pytest.mark.parametrize("name", [*SETTINGS, *DEVICES[1:]])
def test_a_fit_continues_to_the_same_bits(name, path):
    def make():
        return clone(network(**SETTINGS.get(name, {"device": name})))  # with a copy of the random state

    assert_equal_models(fit_after_crash(make, path), make().fit(X, y))


DATA = {
    "sparse": {"X": sparse.csr_matrix(np.where(X > 0.5, X, 0)), "y": y},
    "multilabel": {"X": X, "y": np.stack([y, 1 - y, X[:, 3] > 0], 1).astype(int)},
    "text labels": {"X": X, "y": np.array(["no", "yes"], object)[y]},
    "validation": {"X": X, "y": y, "X_val": X[:30], "y_val": y[:30]},
    "weights": {"X": X, "y": y, "sample_weight": WEIGHTS},
}


@pytest.mark.parametrize("name", DATA)
def test_all_kinds_of_data_continue_to_the_same_bits(name, path):
    assert_equal_models(fit_after_crash(network, path, **DATA[name]), network().fit(**DATA[name]))


def test_several_crashes_and_every(path):
    with Checkpoint(path, every=2):
        for n_writes in (1, 2, 3):
            with crash_after(n_writes), pytest.raises(Crash):
                network().fit(X, y)
            assert read_values(path)["n_epochs"] == 2 * n_writes
        model = network().fit(X, y)
    assert_equal_models(model, network().fit(X, y))


def test_an_unknown_seed_is_that_of_the_file(path):
    model = fit_after_crash(lambda: network(random_state=None, early_stopping=True), path)
    assert_equal_models(model, network(random_state=read_values(path)["seed"], early_stopping=True).fit(X, y))


def test_a_finished_fit_is_not_repeated(path):
    first, second = (network(warm_start=True, learning_rate="constant", tol=1e-9) for _ in range(2))
    for model in (first, second):
        with Checkpoint(path, 100), count_epochs() as epochs, pytest.warns(ConvergenceWarning, match="max_iter=8"):
            model.fit(X, y)
    assert not epochs
    assert_equal_models(first, second)
    assert_equal_models(first.fit(X, y), second.fit(X, y))  # also what a warm start needs is there


def test_a_warm_start_continues(path):
    saved = pickle.dumps(network(warm_start=True, early_stopping=True, learning_rate="constant").fit(X, y))
    model = fit_after_crash(lambda: pickle.loads(saved), path)
    assert len(model.loss_curve_) == 16
    assert_equal_models(model, pickle.loads(saved).fit(X, y))


def test_each_call_of_a_warm_start_is_another_fit(path, tmp_path):
    model = network(warm_start=True)
    with Checkpoint(path):
        model.fit(X, y)
        with pytest.raises(ValueError, match=r"but fitted attributes is '\w+' in this fit and None in the checkpoint"):
            model.fit(X, y)
    with Checkpoint(f"{tmp_path}/folder/"):
        model.fit(X, y).fit(X, y)
    assert len(list_files(tmp_path / "folder")) == 2


@needs_callbacks
def test_a_checkpoint_is_a_callback(path):
    def make():
        return network().set_callbacks(Checkpoint(path, every=3))

    with crash_after(1), pytest.raises(Crash):
        make().fit(X, y)
    with count_epochs() as epochs:
        model = make_pipeline(clone(make())).fit(X, y)[-1]
    assert len(epochs) == 5
    assert_equal_models(model, network().fit(X, y))


class Recorder:
    """A callback of scikit-learn that notes the epochs that end, and stops after the one of this index."""

    def __init__(self, stop_at=None):
        self.ended, self.stop_at = [], stop_at

    def setup(self, estimator, context):
        pass

    teardown = on_fit_task_begin = setup

    def on_fit_task_end(self, estimator, context):
        if context.task_name == "epoch":
            self.ended.append(context.task_id)
        return context.task_id == self.stop_at


@needs_callbacks
def test_other_callbacks_see_the_epochs_that_are_left(path):
    recorders = [Recorder(), Recorder(stop_at=6), Recorder()]
    models = [network().set_callbacks(recorder, Checkpoint(path)) for recorder in recorders]
    with crash_after(3), pytest.raises(Crash):
        models[0].fit(X, y)
    assert_equal_models(models[1].fit(X, y), models[2].fit(X, y))  # a fit that a callback stopped has ended
    assert [recorder.ended for recorder in recorders] == [[0, 1, 2], [3, 4, 5, 6], []]


def test_ctrl_c_keeps_the_model_and_the_checkpoint(path):
    with Checkpoint(path):
        with crash_after(3, KeyboardInterrupt), pytest.warns(UserWarning, match="interrupted by user"):
            assert network().fit(X, y).n_iter_ == 3
        model = network().fit(X, y)
    assert_equal_models(model, network().fit(X, y))


DIFFERENT = {
    "alpha": ({"alpha": 2.0}, {}, "alpha is 2.0 in this fit and 1.0 in the checkpoint"),
    "max_iter": ({"max_iter": 9}, {}, "max_iter is 9 in this fit and 8 in the checkpoint"),
    "random_state": ({"random_state": 1}, {}, "random_state is 1 in this fit and 0 in the checkpoint"),
    "loss": ({"loss": lambda logits, targets: (logits - targets) ** 2}, {}, "loss is '.*<lambda>, code .*' in"),
    "X": ({}, {"X": X + 1e-9}, r"X is 'float64 of shape \(120, 4\), digest \w+' in this fit and 'float64"),
    "dtype of X": ({}, {"X": X.astype("float32")}, "X is 'float32 of shape"),
    "y": ({}, {"y": 1 - y}, r"y is '\w+ of shape \(120,\), digest"),
    "labels": ({}, {"y": y * 2}, r"y is '\w+ of shape"),
    "sample_weight": ({}, {"sample_weight": WEIGHTS}, "sample_weight is 'float64 .*' in this fit and None in"),
    "X_val": ({}, {"X_val": X[:9], "y_val": y[:9]}, "X_val is 'float64 .*; y_val is .* and None in the checkpoint"),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_the_checkpoint_of_another_fit_is_refused_and_stays(name, path):
    parameters, data, message = DIFFERENT[name]
    with Checkpoint(path):
        first = network(alpha=1.0).fit(X, y)
        message = f"net.npz' must be of the same .* but .*{message}.* delete the file, or give Checkpoint another path"
        with pytest.raises(ValueError, match=message):
            network(**({"alpha": 1.0} | parameters)).fit(**({"X": X, "y": y} | data))
        assert_equal_models(network(alpha=1.0).fit(X, y), first)


def test_what_changes_no_coefficient_may_change(path, capsys):
    with Checkpoint(path):
        first = network().fit(X, y)
        second = network(verbose=True, warm_start=True, device="cpu").fit(X.tolist(), y.tolist())
    assert_equal_models(first, second)


def test_lbfgs_is_refused(path):
    message = r"solver must be 'adam' or 'sgd' with a Checkpoint, got 'lbfgs'.*solver='adam'"
    with Checkpoint(path), pytest.raises(ValueError, match=message):
        network(solver="lbfgs").fit(X, y)


@needs_callbacks
def test_two_checkpoints_are_refused():
    with pytest.raises(ValueError, match=r"takes one Checkpoint, got \[Checkpoint\('a', every=1\), Checkpoint"):
        network().set_callbacks(Checkpoint("a"), Checkpoint("b")).fit(X, y)


def test_parameters_of_a_checkpoint_are_checked():
    with pytest.raises(TypeError, match="path must be a file or a folder, got 3"):
        Checkpoint(3)
    for address in ("s3://bucket/net.npz", PurePosixPath("gs://bucket/net.npz")):
        with pytest.raises(ValueError, match=r"of this machine, got the address .*//?bucket.*Write to a local folder"):
            Checkpoint(address)
    for every in (0, 1.5, True):
        with pytest.raises(ValueError, match=f"every must be a whole number of epochs, 1 or more, got {every}"):
            Checkpoint("net.npz", every=every)


def test_a_context_is_for_the_fits_in_it_and_the_innermost_counts(tmp_path):
    with Checkpoint(tmp_path / "outer.npz"):
        with Checkpoint(tmp_path / "inner.npz"):
            network().fit(X, y)
        network().partial_fit(X, y, classes=[0, 1])  # has no checkpoints
    network(alpha=3.0).fit(X, y)
    assert os.listdir(tmp_path) == ["inner.npz"]


def test_a_damaged_checkpoint_does_not_stop_a_fit(path):
    with Checkpoint(path):
        with crash_after(4), pytest.raises(Crash):
            network().fit(X, y)
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.warns(UserWarning, match="is damaged .* Training starts from the beginning"):
            model = network().fit(X, y)
    assert_equal_models(model, network().fit(X, y))
    assert read_values(path)["has_ended"]


def test_a_folder_that_cannot_be_written_to_does_not_stop_a_fit(path):
    path.touch()
    with Checkpoint(path / "net.npz"), pytest.warns(UserWarning, match="could not be written") as caught:
        model = network().fit(X, y)
    assert len(caught) == 1
    assert_equal_models(model, network().fit(X, y))


def test_files_of_other_versions(path, monkeypatch):
    with Checkpoint(path):
        first = network().fit(X, y)
        monkeypatch.setattr("scratchnn.checkpoints.session.__version__", "99.0")
        with pytest.warns(UserWarning, match=r"was written by scratchnn [\w.]+, and this is 99.0"):
            assert_equal_models(network().fit(X, y), first)
        file = Archive(str(path))
        contents = file.read()
        file.write(contents._replace(arrays={**contents.arrays, "coefficients": np.zeros(3, np.float32)}))
        message = "number of coefficients is 31 in this fit and 3 in the checkpoint"
        with pytest.warns(UserWarning, match="this is 99.0"), pytest.raises(ValueError, match=message):
            network().fit(X, y)
        monkeypatch.setattr("scratchnn.checkpoints.session.FORMAT", 3)
        with pytest.raises(
            ValueError, match=r"must have format 3, got 2, written by another version .*delete the file"
        ):
            network().fit(X, y)


def make_search(**changes):
    """The networks of a fold draw the same dropout, and in a stack share a generator."""
    return GridSearchCV(network(dropout=0.2), {"alpha": [0.1, 1.0]}, cv=2, **changes)


@pytest.mark.parametrize("fused", [False, True])
def test_a_search_continues_in_a_folder(fused, tmp_path):
    def fit():
        with fused_fits() if fused else nullcontext():
            return make_search().fit(X, y)

    plain = fit()
    with Checkpoint(f"{tmp_path}/", every=3):
        with crash_after(2, RuntimeError), pytest.raises(ValueError, match="fits failed"):
            fit()
        assert len(list_files(tmp_path)) == 4
        with count_epochs() as epochs:
            search = fit()
        assert sum(epochs) == 4 * 2 + 8
        with count_epochs() as epochs:
            assert_equal_models(fit().best_estimator_, plain.best_estimator_)
        assert not epochs
    np.testing.assert_array_equal(search.cv_results_["mean_test_score"], plain.cv_results_["mean_test_score"])
    assert_equal_models(search.best_estimator_, plain.best_estimator_)


def test_networks_of_a_stack_continue_to_the_same_bits(tmp_path):
    def fit():
        with fused_fits():
            return Parallel()(delayed(network(dropout=0.2, alpha=alpha).fit)(X, y) for alpha in (0.1, 1.0, 1.0))

    with Checkpoint(f"{tmp_path}/"):
        with crash_after(4, RuntimeError), pytest.raises(RuntimeError):
            fit()
        assert len(list_files(tmp_path)) == 3  # equal fits at the same time have files of their own
        with count_epochs() as epochs:
            models = fit()
    assert epochs == [3] * 4
    for model, plain in zip(models, fit(), strict=True):
        assert_equal_models(model, plain)


@pytest.mark.parametrize("fused", [False, True])
def test_a_search_with_one_file_is_refused(fused, path):
    message = "which another fit uses" if fused else "must be of the same data and parameters"
    fusion = fused_fits() if fused else nullcontext()
    with Checkpoint(path), fusion, pytest.raises(ValueError, match=f"{message}.* a folder"):
        make_search(error_score="raise").fit(X, y)


@needs_callbacks
def test_workers_have_the_checkpoint_of_callbacks(tmp_path):
    model = make_pipeline(StandardScaler(), network(max_iter=3).set_callbacks(Checkpoint(f"{tmp_path}/")))
    with parallel_config("threading"):
        scores = cross_val_score(model, X, y, cv=2, n_jobs=2)
    assert len(list_files(tmp_path)) == 2
    with count_epochs() as epochs:
        np.testing.assert_array_equal(cross_val_score(model, X, y, cv=2), scores)
    assert not epochs


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_process_continues_to_the_same_bits():
    """It needs a process that has imported the package, of which the processes that it kills are forks."""
    script = ROOT / "tests" / "benchmarks" / "kill.py"
    result = subprocess.run([sys.executable, script, "--times", "6"], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("6 kills, all models equal\n")
