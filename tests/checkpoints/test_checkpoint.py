"""Fits with a checkpoint: they continue after a crash to the same bits, and a file of another fit is refused."""

import errno
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


def network(**changes):
    settings = {"hidden_layer_sizes": (5,), "max_iter": 8, "random_state": 0, "numeric_encoding": None}
    return ScratchNNClassifier(**(settings | ALL_EPOCHS | changes))


def read_values(path):
    return Archive(str(path)).read().values


def list_files(folder):
    return sorted(name for name in os.listdir(folder) if name.endswith(".npz"))


def fit_after_crash(make, path, n_epochs=3, *args, every=1, **kwargs):
    """Fit in two processes, as it were: one that dies after ``n_epochs`` epochs, and one that continues."""
    with Checkpoint(path, every=every):
        with crash_after(n_epochs // every), pytest.raises(Crash):
            make().fit(X, y, *args, **kwargs)
        with count_epochs() as epochs:
            model = make().fit(X, y, *args, **kwargs)
    assert len(epochs) == model.n_iter_ - n_epochs
    return model


SETTINGS = {
    "adam": {},
    "one_cycle": {"learning_rate": "one_cycle"},
    "constant": {"learning_rate": "constant"},
    "momentum": {"solver": "sgd"},
    "momentum without nesterov": {"solver": "sgd", "nesterovs_momentum": False, "learning_rate": "one_cycle"},
    "plain sgd": {"solver": "sgd", "momentum": 0.0},
    "adaptive": {"solver": "sgd", "learning_rate": "adaptive", "tol": 0.2, "n_iter_no_change": 1},
    "invscaling": {"solver": "sgd", "learning_rate": "invscaling"},
    "early stopping": {"early_stopping": True, "learning_rate_init": 0.1},
    "patience": {"early_stopping": True, "learning_rate_init": 0.3, "n_iter_no_change": 2, "max_iter": 50},
    "scoring": {"early_stopping": True, "scoring": "accuracy"},
    "dropout": {"dropout": 0.3},
    "no shuffle": {"shuffle": False},
    "full batch": {"batch_size": "full"},
    "float64": {"dtype": "float64"},
    "class weights": {"class_weight": "balanced"},
    "bins": {"numeric_encoding": "piecewise"},
    "no hidden layer": {"hidden_layer_sizes": ()},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_fit_continues_to_the_same_bits(name, tmp_path):
    def make():
        return network(**SETTINGS[name])

    assert_equal_models(fit_after_crash(make, tmp_path / "net.npz"), make().fit(X, y))


@pytest.mark.parametrize("device", DEVICES)
def test_devices_continue_to_the_same_bits(device, tmp_path):
    def make():
        return network(device=device, dropout=0.2)

    assert_equal_models(fit_after_crash(make, tmp_path / "net.npz"), make().fit(X, y))


def test_weights_and_validation_data(tmp_path):
    arguments = {"X_val": X[:30], "y_val": y[:30], "sample_weight_val": WEIGHTS[:30]}
    model = fit_after_crash(network, tmp_path / "net.npz", 3, WEIGHTS, **arguments)
    assert_equal_models(model, network().fit(X, y, WEIGHTS, **arguments))
    assert len(model.validation_loss_curve_) == 8


@pytest.mark.parametrize("kind", ["sparse", "multilabel", "text labels"])
def test_other_kinds_of_data(kind, tmp_path):
    table = sparse.csr_matrix(np.where(X > 0.5, X, 0)) if kind == "sparse" else X
    targets = {"sparse": y, "multilabel": np.stack([y, 1 - y, X[:, 3] > 0], 1).astype(int)}
    targets = targets.get(kind, np.array(["no", "yes"], object)[y])
    with Checkpoint(tmp_path / "net.npz"):
        with crash_after(3), pytest.raises(Crash):
            network().fit(table, targets)
        model = network().fit(table, targets)
    assert_equal_models(model, network().fit(table, targets))
    np.testing.assert_array_equal(model.classes_, np.unique(targets) if kind != "multilabel" else [0, 1, 2])


def test_several_crashes_and_every(tmp_path):
    with Checkpoint(tmp_path / "net.npz", every=2):
        for n_writes in (1, 2, 3):
            with crash_after(n_writes), pytest.raises(Crash):
                network().fit(X, y)
            assert read_values(tmp_path / "net.npz")["n_epochs"] == 2 * n_writes
        model = network().fit(X, y)
    assert_equal_models(model, network().fit(X, y))


def test_an_unknown_seed_is_that_of_the_file(tmp_path):
    model = fit_after_crash(lambda: network(random_state=None, early_stopping=True), tmp_path / "net.npz")
    seed = read_values(tmp_path / "net.npz")["seed"]
    assert_equal_models(model, network(random_state=seed, early_stopping=True).fit(X, y))


def test_a_random_state_continues(tmp_path):
    def make():
        return network(random_state=np.random.RandomState(3))

    assert_equal_models(fit_after_crash(make, tmp_path / "net.npz"), make().fit(X, y))


def test_a_finished_fit_is_not_repeated(tmp_path):
    with Checkpoint(tmp_path / "net.npz", every=100):
        first = network(warm_start=True).fit(X, y)
        with count_epochs() as epochs:
            second = network(warm_start=True).fit(X, y)
    assert not epochs
    assert_equal_models(first, second)
    assert_equal_models(first.fit(X, y), second.fit(X, y))  # also what a warm start needs is there


def test_a_finished_fit_warns_again(tmp_path):
    for _ in range(2):
        with Checkpoint(tmp_path / "net.npz"), pytest.warns(ConvergenceWarning, match="max_iter=3"):
            network(max_iter=3, learning_rate="constant", tol=1e-9, n_iter_no_change=10).fit(X, y)


def test_a_warm_start_continues(tmp_path):
    once = network(warm_start=True, early_stopping=True, learning_rate="constant").fit(X, y)
    uninterrupted = pickle.loads(pickle.dumps(once)).fit(X, y)
    saved = pickle.dumps(once)
    model = fit_after_crash(lambda: pickle.loads(saved), tmp_path / "net.npz")
    assert len(model.loss_curve_) == 16
    assert_equal_models(model, uninterrupted)


def test_each_call_of_a_warm_start_is_another_fit(tmp_path):
    model = network(warm_start=True)
    with Checkpoint(tmp_path / "net.npz"):
        model.fit(X, y)
        with pytest.raises(ValueError, match=r"but fitted attributes is '\w+' in this fit and None in the checkpoint"):
            model.fit(X, y)
    with Checkpoint(f"{tmp_path}/folder/"):
        model.fit(X, y).fit(X, y)
    assert len(os.listdir(tmp_path / "folder")) == 2


@needs_callbacks
def test_a_checkpoint_is_a_callback(tmp_path):
    def make():
        return network().set_callbacks(Checkpoint(tmp_path / "net.npz", every=3))

    with crash_after(1), pytest.raises(Crash):
        make().fit(X, y)
    with count_epochs() as epochs:
        model = make_pipeline(clone(make())).fit(X, y)[-1]
    assert len(epochs) == 5
    assert_equal_models(model, network().fit(X, y))


class Recorder:
    """Notes the epochs that scikit-learn's callbacks see, and stops after the one of this number."""

    def __init__(self, stop_at=None):
        self.begun, self.ended, self.stop_at = [], [], stop_at

    def setup(self, estimator, context):
        pass

    teardown = setup

    def on_fit_task_begin(self, estimator, context):
        if context.task_name == "epoch":
            self.begun.append(context.task_id)

    def on_fit_task_end(self, estimator, context):
        if context.task_name == "epoch":
            self.ended.append(context.task_id)
        return context.task_id == self.stop_at


@needs_callbacks
def test_other_callbacks_see_the_epochs_that_are_left(tmp_path):
    recorders = [Recorder() for _ in range(3)]
    for recorder, crash in zip(recorders, [crash_after(3), nullcontext(), nullcontext()], strict=True):
        model = network().set_callbacks(recorder, Checkpoint(tmp_path / "net.npz"))
        with crash, pytest.raises(Crash) if recorder is recorders[0] else nullcontext():
            model.fit(X, y)
    assert [recorder.ended for recorder in recorders] == [[0, 1, 2], [3, 4, 5, 6, 7], []]
    assert [recorder.begun for recorder in recorders] == [[0, 1, 2, 3], [3, 4, 5, 6, 7], []]


@needs_callbacks
def test_a_fit_that_a_callback_stopped_has_ended(tmp_path):
    models = []
    for _ in range(2):
        model = network().set_callbacks(Recorder(stop_at=4), Checkpoint(tmp_path / "net.npz"))
        with count_epochs() as epochs:
            models.append(model.fit(X, y))
    assert not epochs
    assert models[0].n_iter_ == 5
    assert_equal_models(*models)


def test_ctrl_c_keeps_the_model_and_the_checkpoint(tmp_path):
    with Checkpoint(tmp_path / "net.npz"):
        with crash_after(3, KeyboardInterrupt), pytest.warns(UserWarning, match="interrupted by user"):
            model = network().fit(X, y)
        assert model.n_iter_ == 3
        model = network().fit(X, y)
    assert_equal_models(model, network().fit(X, y))


DIFFERENT = {
    "alpha": ({"alpha": 2.0}, {}, "alpha is 2.0 in this fit and 1.0 in the checkpoint"),
    "solver": ({"solver": "sgd"}, {}, "solver is 'sgd' in this fit and 'adam' in the checkpoint"),
    "max_iter": ({"max_iter": 9}, {}, "max_iter is 9 in this fit and 8 in the checkpoint"),
    "random_state": ({"random_state": 1}, {}, "random_state is 1 in this fit and 0 in the checkpoint"),
    "loss": ({"loss": lambda logits, targets: (logits - targets) ** 2}, {}, "loss is '.*<lambda>, code .*' in"),
    "X": ({}, {"X": X + 1e-9}, r"X is 'float64 of shape \(120, 4\), digest \w+' in this fit and 'float64"),
    "rows": ({}, {"X": X[:50], "y": y[:50]}, r"X is 'float64 of shape \(50, 4\).*; y is '.*\(50,\).*' in"),
    "dtype of X": ({}, {"X": X.astype("float32")}, "X is 'float32 of shape"),
    "y": ({}, {"y": 1 - y}, r"y is '\w+ of shape \(120,\), digest"),
    "labels": ({}, {"y": y * 2}, r"y is '\w+ of shape"),
    "sample_weight": ({}, {"sample_weight": WEIGHTS}, "sample_weight is 'float64 .*' in this fit and None in"),
    "X_val": ({}, {"X_val": X[:9], "y_val": y[:9]}, "X_val is 'float64 .*; y_val is .* and None in the checkpoint"),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_the_checkpoint_of_another_fit_is_refused(name, tmp_path):
    parameters, data, message = DIFFERENT[name]
    with Checkpoint(tmp_path / "net.npz"):
        first = network(alpha=1.0, max_iter=8).fit(X, y)
        with pytest.raises(ValueError, match=f"net.npz' must be of the same .* but .*{message}") as caught:
            network(**({"alpha": 1.0} | parameters)).fit(**({"X": X, "y": y} | data))
        assert "delete the file, or give Checkpoint another path" in str(caught.value)
        assert_equal_models(network(alpha=1.0).fit(X, y), first)  # the file is still there


def test_what_changes_no_coefficient_may_change(tmp_path, capsys):
    with Checkpoint(tmp_path / "net.npz"):
        first = network().fit(X, y)
        second = network(verbose=True, warm_start=True, device="cpu").fit(X.tolist(), y.tolist())
    assert_equal_models(first, second)


def test_lbfgs_is_refused(tmp_path):
    with (
        Checkpoint(tmp_path / "net.npz"),
        pytest.raises(
            ValueError, match=r"solver must be 'adam' or 'sgd' with a Checkpoint, got 'lbfgs'.*solver='adam'"
        ),
    ):
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


def test_the_innermost_context_counts(tmp_path):
    with Checkpoint(tmp_path / "outer.npz"):
        with Checkpoint(tmp_path / "inner.npz"):
            network().fit(X, y)
        assert os.listdir(tmp_path) == ["inner.npz"]
    network(alpha=3.0).fit(X, y)  # outside, nothing is read or refused


def test_partial_fit_has_no_checkpoint(tmp_path):
    with Checkpoint(tmp_path / "net.npz"):
        network().partial_fit(X, y, classes=[0, 1])
    assert os.listdir(tmp_path) == []


def test_a_damaged_checkpoint_does_not_stop_a_fit(tmp_path):
    path = tmp_path / "net.npz"
    with Checkpoint(path):
        with crash_after(4), pytest.raises(Crash):
            network().fit(X, y)
        path.write_bytes(path.read_bytes()[:-100])
        with count_epochs() as epochs, pytest.warns(UserWarning, match="is damaged .* Training starts from the begin"):
            model = network().fit(X, y)
    assert len(epochs) == 8
    assert_equal_models(model, network().fit(X, y))
    assert read_values(path)["has_ended"]


def test_a_fit_does_not_replace_another_file(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, X=X, y=y)
    with Checkpoint(path), pytest.raises(ValueError, match=r"got '.*data.npz', which is another file"):
        network().fit(X, y)
    np.testing.assert_array_equal(np.load(path)["X"], X)


def test_a_full_disk_does_not_stop_a_fit(tmp_path, monkeypatch):
    def fail(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with Checkpoint(tmp_path / "net.npz"):
        with crash_after(3), pytest.raises(Crash):
            network().fit(X, y)
        monkeypatch.setattr(os, "fsync", fail)
        with pytest.warns(UserWarning, match="could not be written .*No space left on device") as caught:
            model = network().fit(X, y)
        assert len(caught) == 1
    assert read_values(tmp_path / "net.npz")["n_epochs"] == 3
    assert_equal_models(model, network().fit(X, y))


def test_a_folder_that_cannot_be_written_to_does_not_stop_a_fit(tmp_path):
    (tmp_path / "file").touch()
    with Checkpoint(tmp_path / "file" / "net.npz"), pytest.warns(UserWarning, match="could not be written") as caught:
        model = network().fit(X, y)
    assert len(caught) == 1
    assert_equal_models(model, network().fit(X, y))


def test_another_version_is_a_warning(tmp_path, monkeypatch):
    with Checkpoint(tmp_path / "net.npz"):
        first = network().fit(X, y)
        monkeypatch.setattr("scratchnn.checkpoints.session.__version__", "99.0")
        with pytest.warns(UserWarning, match=r"was written by scratchnn [\d.]+, and this is 99.0"):
            second = network().fit(X, y)
    assert_equal_models(first, second)


def test_another_format_is_refused(tmp_path, monkeypatch):
    with Checkpoint(tmp_path / "net.npz"):
        network().fit(X, y)
        monkeypatch.setattr("scratchnn.checkpoints.session.FORMAT", 3)
        with pytest.raises(ValueError, match=r"must have format 3, got 2, .*delete the file"):
            network().fit(X, y)


def test_another_network_is_refused(tmp_path):
    """Data and parameters are the same, but another version of a library has made fewer bins of them, say."""
    with Checkpoint(tmp_path / "net.npz"):
        network().fit(X, y)
        file = Archive(str(tmp_path / "net.npz"))
        contents = file.read()
        file.write(contents._replace(arrays={**contents.arrays, "coefficients": np.zeros(3, np.float32)}))
        with pytest.raises(ValueError, match="number of coefficients is 31 in this fit and 3 in the checkpoint"):
            network().fit(X, y)


def make_search(**changes):
    """The networks of a fold draw the same dropout, and in a stack share a generator."""
    settings = {"cv": 2, "error_score": "raise"} | changes
    return GridSearchCV(network(dropout=0.2), {"alpha": [0.1, 1.0]}, **settings)


@pytest.mark.parametrize("fused", [False, True])
def test_a_search_continues_in_a_folder(fused, tmp_path):
    def fit(**changes):
        with fused_fits() if fused else nullcontext():
            return make_search(**changes).fit(X, y)

    plain = fit()
    with Checkpoint(f"{tmp_path}/", every=3):
        with crash_after(2, RuntimeError), pytest.raises(ValueError, match="fits failed"):
            fit(error_score=np.nan)
        assert len(list_files(tmp_path)) == 4
        with count_epochs() as epochs:
            search = fit()
        assert sum(epochs) == 4 * 2 + 8
        with count_epochs() as epochs:
            again = fit()
        assert not epochs
    for each in (search, again):
        np.testing.assert_array_equal(each.cv_results_["mean_test_score"], plain.cv_results_["mean_test_score"])
        assert_equal_models(each.best_estimator_, plain.best_estimator_)


def test_networks_of_a_stack_continue_to_the_same_bits(tmp_path):
    def fit():
        with fused_fits():
            return Parallel()(delayed(network(dropout=0.2, alpha=alpha).fit)(X, y) for alpha in (0.1, 1.0, 9.0))

    with Checkpoint(f"{tmp_path}/"):
        with crash_after(4, RuntimeError), pytest.raises(RuntimeError):
            fit()
        with count_epochs() as epochs:
            models = fit()
    assert epochs == [3] * 4
    for model, plain in zip(models, fit(), strict=True):
        assert_equal_models(model, plain)


@pytest.mark.parametrize("fused", [False, True])
def test_a_search_with_one_file_is_refused(fused, tmp_path):
    message = "which another fit uses" if fused else "must be of the same data and parameters"
    with (
        Checkpoint(tmp_path / "net.npz"),
        fused_fits() if fused else nullcontext(),
        pytest.raises(ValueError, match=f"{message}.* a folder"),
    ):
        make_search().fit(X, y)


def test_equal_fits_of_a_fused_search_have_files_of_their_own(tmp_path):
    with Checkpoint(f"{tmp_path}/"), fused_fits():
        GridSearchCV(network(), {"alpha": [1.0, 1.0]}, cv=2, refit=False).fit(X, y)
    assert len(list_files(tmp_path)) == 4


@needs_callbacks
def test_workers_have_the_checkpoint_of_callbacks(tmp_path):
    model = make_pipeline(StandardScaler(), network(max_iter=3).set_callbacks(Checkpoint(f"{tmp_path}/")))
    with parallel_config("threading"):
        scores = cross_val_score(model, X, y, cv=2, n_jobs=2)
    assert len(list_files(tmp_path)) == 2
    with count_epochs() as epochs:
        np.testing.assert_array_equal(cross_val_score(model, X, y, cv=2), scores)
    assert not epochs


def test_a_checkpoint_can_be_copied():
    checkpoint = pickle.loads(pickle.dumps(Checkpoint("net.npz", every=4)))
    assert repr(checkpoint) == "Checkpoint('net.npz', every=4)"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_process_continues_to_the_same_bits():
    """It needs a process that has imported the package, of which the processes that it kills are forks."""
    script = ROOT / "tests" / "benchmarks" / "kill.py"
    result = subprocess.run([sys.executable, script, "--times", "6"], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("6 kills, all models equal\n")
