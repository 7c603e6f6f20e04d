"""`data_parallel`: two real processes, which do what is in rank_uses.py, against one process with all rows."""

import os
import pickle
import socket
import subprocess
import sys

import numpy as np
import pytest
import rank_uses
import torch
import torch.distributed as dist
from crashes import assert_equal_models
from filelock import FileLock
from helpers import assert_same_fit
from rank_uses import BOUNDS, FULL, N_EVEN, PLAIN, STEP, make_frame, make_rows
from scipy import sparse

from scratchnn import Checkpoint, ScratchNNClassifier, data_parallel
from scratchnn.batch import Batch
from scratchnn.distributed.connection import Ranks
from scratchnn.distributed.steps import JointSteps
from scratchnn.exceptions import RankError

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
CLOSE = {"rtol": 1e-9, "atol": 1e-12}


def find_free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of the two processes, which all workers of pytest share."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    return folder / "ranks"


@pytest.fixture(scope="module")
def results(folder):
    """What the two processes wrote."""
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            folder.mkdir()
            run_ranks(folder)
    return [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(2)]


def run_ranks(folder):
    env = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": find_free_port()}
    files = [open(folder / f"{rank}.txt", "w") for rank in range(2)]  # noqa: SIM115
    processes = [
        subprocess.Popen(
            [sys.executable, rank_uses.__file__, str(folder)],
            env={**env, "RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"},
            stderr=stderr,
        )
        for rank, stderr in enumerate(files)
    ]
    try:
        for process in processes:
            process.wait(timeout=100)
    finally:
        for process in processes:
            process.kill()
        for file in files:
            file.close()
    errors = [(folder / f"{rank}.txt").read_text() for rank in range(2)]
    assert processes[0].returncode == 0, errors[0]
    assert processes[1].returncode == -9, errors[1]  # it kills itself at the end


@pytest.fixture(scope="module")
def fits(results):
    """The models of both processes, by the name of the fit."""
    return {name: (fit, results[1]["fits"][name]) for name, fit in results[0]["fits"].items()}


@pytest.mark.parametrize("name", rank_uses.FITS)
def test_all_processes_end_with_the_same_model(name, fits):
    first, second = fits[name]
    assert_same_fit(first, second)
    for attribute in ("loss_curve_", "validation_scores_", "n_iter_", "t_", "alpha_"):
        assert getattr(first, attribute) == getattr(second, attribute)
    np.testing.assert_array_equal(first.classes_, second.classes_)
    np.testing.assert_array_equal(first.feature_names_encoded_, second.feature_names_encoded_)


def fit_alone(name):
    """Return the model of one process that has the rows of both."""
    X, y, weights = make_rows()
    if name == "fit_full":
        return ScratchNNClassifier(**FULL, class_weight="balanced").fit(X, y, weights)
    if name == "fit_frame":
        return ScratchNNClassifier(**FULL).fit(*make_frame())
    if name == "fit_sparse":
        return ScratchNNClassifier(**FULL).fit(sparse.csr_array(np.where(X > 4, X, 0)), y)
    if name == "fit_multilabel":
        labels = np.stack([y > 0, X[:, 1] > 3], 1).astype(int)
        return ScratchNNClassifier(**FULL, class_weight="balanced").fit(X, labels)
    if name == "fit_twice":
        return ScratchNNClassifier(**PLAIN, warm_start=True, learning_rate="constant").fit(X, y).fit(X, y)
    rows = np.arange(2 * N_EVEN).reshape(2, -1, STEP).swapaxes(0, 1).ravel()  # the parts of both, step by step
    return ScratchNNClassifier(**{**PLAIN, "batch_size": 2 * STEP}, shuffle=False).fit(X[rows], y[rows])


@pytest.mark.parametrize("name", ["fit_full", "fit_frame", "fit_sparse", "fit_multilabel", "fit_twice", "fit_steps"])
def test_the_model_is_that_of_one_process_with_all_rows(name, fits):
    joint, alone = fits[name][0], fit_alone(name)
    assert_same_fit(joint, alone, **CLOSE)
    np.testing.assert_allclose(joint.loss_curve_, alone.loss_curve_, **CLOSE)
    assert (joint.t_, joint.n_iter_) == (alone.t_, alone.n_iter_)
    assert joint.alpha_ == pytest.approx(alone.alpha_)
    np.testing.assert_array_equal(joint.feature_names_encoded_, alone.feature_names_encoded_)


def test_early_stopping_watches_the_validation_rows_of_all_processes(fits):
    X, y, _ = make_rows()
    rows = [np.arange(start, stop) for start, stop in zip((0, BOUNDS[0]), BOUNDS, strict=True)]
    training, validation = (np.concatenate([own[start::2] for own in rows]) for start in range(2))
    alone = ScratchNNClassifier(**{**PLAIN, "max_iter": 30, "learning_rate_init": 0.1}, early_stopping=True)
    alone.set_params(scoring="accuracy", n_iter_no_change=3)
    X_val, weights = X[validation], np.where(validation < BOUNDS[0], 1.0, 2.0)
    X_val[validation == BOUNDS[0] + 1, 1] = np.nan
    alone.fit(X[training], y[training], X_val=X_val, y_val=y[validation], sample_weight_val=weights)
    joint = fits["fit_validated"][0]
    assert alone.n_iter_ < 30
    assert joint.n_iter_ == alone.n_iter_
    np.testing.assert_allclose(joint.validation_scores_, alone.validation_scores_, **CLOSE)
    np.testing.assert_allclose(joint.validation_loss_curve_, alone.validation_loss_curve_, **CLOSE)
    assert_same_fit(joint, alone, **CLOSE)


def test_each_process_holds_rows_out_for_early_stopping(fits):
    n_held_out = 7 + 5
    for fit in fits["fit_batches"]:
        assert fit.t_ == fit.n_iter_ * (BOUNDS[1] - n_held_out)
        assert len(fit.validation_scores_) == fit.n_iter_


OTHER_FAILED = "RankError: Rank 1 of data_parallel failed, so rank 0 stops, too."
MESSAGES = {
    "parameters": ["ValueError: learning_rate_init must be the same in all processes of data_parallel, got 0.1 in"] * 2,
    "columns": ["ValueError: X and y must have the same columns in all processes of data_parallel, got 4 columns,"],
    "infinity": [OTHER_FAILED, "ValueError: Input X contains"],
    "types": ["ValueError: y must be of one type in all processes of data_parallel, got"] * 2,
    "validation": ["ValueError: X_val and y_val must be given in all processes of data_parallel, or in none"] * 2,
    "score": [OTHER_FAILED, "ValueError: scoring must be defined for the validation"],
    "lbfgs": ["ValueError: solver must be 'adam' or 'sgd' inside data_parallel, got 'lbfgs'."] * 2,
    "partial_fit": ["ValueError: partial_fit must not be used inside data_parallel"] * 2,
    "cv": ["ValueError: ScratchNNClassifierCV must not be used inside data_parallel"] * 2,
    "fused": ["RuntimeError: Inside data_parallel, fit must be called by the thread that entered it"] * 2,
    "thread": ["RuntimeError: Inside data_parallel, fit must be called by the thread that entered it"] * 2,
    "twice": ["ValueError: data_parallel must not be used inside data_parallel"] * 2,
    "no rows": [
        f"{OTHER_FAILED} Its error: ValueError: Found array with 0 sample(s)",
        "ValueError: Found array with 0",
    ],
    "weights": [
        f"{OTHER_FAILED} Its error: ValueError: sample_weight must have",
        "ValueError: sample_weight must have",
    ],
    "rows": ["ValueError: The checkpoint "] * 2,
    "every": [
        "ValueError: Checkpoint must have the same every in all processes of data_parallel, got every=1 in rank 0, "
        "every=2 in rank 1."
    ]
    * 2,
    "checkpoint": [
        "ValueError: Checkpoint must have the same every in all processes of data_parallel, got every=1 in rank 0, no "
        "Checkpoint in rank 1."
    ]
    * 2,
    "file": [
        "InUseError: path of Checkpoint must be a file for one fit at a time",
        "RankError: Rank 0 of data_parallel failed, so rank 1 stops, too. Its error: InUseError: path of Checkpoint",
    ],
}
if rank_uses.HAS_CALLBACKS:
    MESSAGES |= {
        "callback": [
            "RankError: Training failed in another rank of data_parallel, so rank 0 stops, too.",
            "ValueError: the loss has failed",
        ],
        "callback at the beginning": [f"{OTHER_FAILED} Its error: ValueError: the", "ValueError: the loss has failed"],
        "callback with checkpoint": [f"{OTHER_FAILED} Its error: ValueError: the", "ValueError: the loss has failed"],
    }
MESSAGES["parameters"][1] = MESSAGES["parameters"][1].replace("0.1 in", "0.2 in")
MESSAGES["columns"].append(MESSAGES["columns"][0].replace("4 columns", "3 columns"))


@pytest.mark.parametrize("name", MESSAGES)
def test_what_does_not_go_together_is_an_error_in_all_processes(name, results):
    for result, message in zip(results, MESSAGES[name], strict=True):
        assert result["errors"][name].startswith(message)


def test_fits_go_on_after_an_error(results, fits):
    for result, expected in zip(results, fits["fit_steps"], strict=True):
        assert_same_fit(result["after"], expected)


def test_the_process_group_is_that_of_the_user_or_ends_with_the_context(results):
    for rank, result in enumerate(results):
        assert result["ranks"] == (rank, 2)
        assert result["left"]
        assert result["kept"]


def test_the_context_can_be_entered_again_after_errors(results):
    lost = "RankError: Rank 0 of data_parallel has lost the others: a process ended or failed"
    left = "RankError: Rank 1 has left the others of data_parallel after an error or an interrupt. Start all processes"
    for name, message in {"fail": "ValueError: loss, a function of", "interrupt": left}.items():
        assert results[0]["ends"][name].startswith(lost)
        assert results[1]["ends"][name].startswith(message)
    assert_equal_models(*(result["planned"] for result in results))


@pytest.mark.parametrize("name", rank_uses.RESUMED)
def test_a_checkpoint_continues_to_the_same_bits(name, results):
    errors = ["RankError: Training failed in another rank of data_parallel", "RuntimeError: crash"]
    for result, error in zip(results, errors, strict=True):
        assert result["resumed"][name]["error"].startswith(error)
        (plain, n_epochs), (resumed, n_left), (finished, n_more) = result["resumed"][name]["fits"]
        assert (n_left, n_more) == (n_epochs - 2, 0)
        assert_equal_models(resumed, finished)
        if name != "seed of the system":
            assert_equal_models(resumed, plain)
    assert_equal_models(*(result["resumed"][name]["fits"][1][0] for result in results))


@pytest.mark.skipif(not rank_uses.HAS_CALLBACKS, reason="scikit-learn has callbacks from 1.9 on")
def test_a_callback_of_one_process_stops_all(results):
    for result in results:
        assert result["stopped"] == [2, 2, 2]


def test_the_checkpoint_of_other_rows_or_of_fewer_processes_is_refused(results, folder):
    for result in results:
        assert (
            "net.npz' must be of the same data and parameters, but X in rank 1 is 'float64 of shape (40, 4)"
            in (result["errors"]["rows"])
        )
    X, y, _ = make_rows()
    with (
        Checkpoint(folder / "net.npz"),
        pytest.raises(ValueError, match="number of processes is 1 in this fit and 2 in the checkpoint"),
    ):
        ScratchNNClassifier(**PLAIN).fit(X, y > 0)


def test_torchrun_restarts_a_job_that_continues_to_the_same_bits(results, folder):
    """The fit has been killed in its fifth epoch, and is killed once more in its eighth."""
    options = ["--nproc-per-node", "2", "--max-restarts", "1", "--master-port", find_free_port()]
    job = [sys.executable, "-m", "torch.distributed.run", *options, rank_uses.__file__, str(folder), "resume"]
    result = subprocess.run(job, capture_output=True, text=True, timeout=100)
    assert result.returncode == 0, result.stderr
    for rank in range(2):
        model, n_before, n_epochs = pickle.loads((folder / f"resumed_{rank}.pickle").read_bytes())
        assert (n_before, n_epochs) == (None if rank else 7, 3)
        assert_equal_models(model, results[rank]["planned"])


def test_a_process_that_dies_ends_the_others(results):
    message, seconds = results[0]["death"]
    assert message.startswith("RankError: Rank 0 of data_parallel has lost the others: a process ended or failed")
    assert seconds < 30


def test_a_process_waits_no_longer_than_the_timeout(results):
    for rank, result in enumerate(results):
        assert result["late"].startswith(
            f"RankError: Rank {rank} of data_parallel has lost the others: a process ended"
        )
    assert "did not come to the same call of fit within timeout=4 seconds" in results[0]["late"]


class TwoRanks(Ranks):
    """The first of two ranks, of which the other has this many samples."""

    size = 2

    def __init__(self, n_other):
        self.n_other = n_other

    def gather(self, value):
        return [value, (self.n_other, 0)]


@pytest.mark.parametrize(
    ("numbers", "batch_size", "own", "sizes"),
    [
        ((60, 60), 120, 60, [120]),
        ((60, 60), 24, 12, [24] * 5),
        ((60, 6), 24, 20, [22] * 3),
        ((60, 1), 24, 20, [21, 20, 20]),
        ((1, 60), 24, 1, [21, 20, 20]),
        ((9, 40), 13, 3, [13, 13, 13, 10]),  # 9 rows make three batches of 3
    ],
)
def test_a_rank_without_rows_left_takes_part_with_weight_0(numbers, batch_size, own, sizes):
    steps = JointSteps(TwoRanks(numbers[1]), numbers[0], 0, batch_size)
    assert (steps.batch_size, steps.sizes, steps.n_samples) == (own, sizes, sum(numbers))
    rows = torch.arange(1.0, numbers[0] + 1).unsqueeze(-1)
    batches = list(steps.align(Batch(part, part) for part in rows.split(own)))
    assert [batch.n_samples for batch in batches] == sizes
    weighted = [batch.deps[:, 0] * (1 if batch.sample_weights is None else batch.sample_weights) for batch in batches]
    assert sum(each.sum().item() for each in weighted) == rows.sum().item()


def test_the_loss_of_the_others_does_not_hide_why(monkeypatch):
    steps, error = JointSteps(TwoRanks(9), 9, 0, 9), ValueError("why")

    def lose(values):
        raise RankError("lost")

    monkeypatch.setattr(steps.ranks, "add_up", lose)
    assert steps.agree_on_end(True, error) == (True, error)
    with pytest.raises(RankError, match="lost"):
        steps.agree_on_end(True, None)


def test_a_process_waits_at_the_context_no_longer_than_the_timeout(monkeypatch):
    environment = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": find_free_port()}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(RankError, match=r"has not found all processes within timeout=0\.5 seconds.*raise timeout"),
        data_parallel(timeout=0.5),
    ):
        pass
    assert not dist.is_initialized()


def test_parameters_and_environment_are_checked(monkeypatch):
    monkeypatch.delenv("MASTER_PORT", raising=False)
    monkeypatch.setenv("RANK", "0")
    for timeout in (0, -1, np.inf, "60", True):
        with (
            pytest.raises(ValueError, match="timeout must be a positive number of seconds, got"),
            data_parallel(timeout=timeout),
        ):
            pass
    with pytest.raises(ValueError, match=r"an environment without .*MASTER_PORT.*torchrun"), data_parallel():
        pass
