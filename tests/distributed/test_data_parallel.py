"""`data_parallel`: two real processes, which do what is in rank_uses.py, against one process with all samples."""

import os
import pickle
import socket
import subprocess
import sys
from unittest.mock import Mock

import numpy as np
import pytest
import rank_uses
import torch.distributed as dist
from crashes import assert_equal_models
from filelock import FileLock
from helpers import assert_same_fit

from scratchnn import Checkpoint, ScratchNNClassifier, data_parallel
from scratchnn.exceptions import RankError

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
CLOSE = {"rtol": 1e-9, "atol": 1e-12}
LOST = "RankError: Rank 0 of data_parallel has lost the others: a process ended or failed, see its output"


def make_environment(size, rank=0):
    """Return torchrun's variables, with a free port of the loopback interface, and those of the job."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    variables = {"WORLD_SIZE": str(size), "RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return variables | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}


def load_results(folder, suffix=""):
    return [pickle.loads((folder / f"{rank}{suffix}.pickle").read_bytes()) for rank in range(2)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of the two processes, which all workers of pytest share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "ranks"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            folder.mkdir()
            run_ranks(folder)
    return folder


def run_ranks(folder):
    env, command = {**os.environ, **make_environment(2)}, [sys.executable, rank_uses.__file__, str(folder)]
    environments = [env, {**env, "RANK": "1"}]
    ranks = [subprocess.Popen(command, env=each, stderr=subprocess.PIPE, text=True) for each in environments]
    try:
        errors = [rank.communicate(timeout=200)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, -9], errors  # rank 1 kills itself at the end


@pytest.fixture(scope="module")
def results(folder):
    return load_results(folder)


@pytest.mark.parametrize("name", rank_uses.AS_ALONE)
def test_the_model_is_that_of_one_process_with_all_samples(name, results):
    first, second = (result["fits"][name] for result in results)
    assert_equal_models(first, second)
    alone = rank_uses.AS_ALONE[name](lambda values: values)
    assert_same_fit(first, alone, **CLOSE)
    np.testing.assert_allclose(first.loss_curve_, alone.loss_curve_, **CLOSE)
    assert (first.t_, first.n_iter_) == (alone.t_, alone.n_iter_)
    assert first.alpha_ == pytest.approx(alone.alpha_)
    for attribute in ("classes_", "feature_names_encoded_"):
        np.testing.assert_array_equal(getattr(first, attribute), getattr(alone, attribute))
    if name == "validated":
        assert alone.n_iter_ < 60
        np.testing.assert_allclose(first.validation_loss_curve_, alone.validation_loss_curve_, **CLOSE)


def test_processes_with_other_seeds_and_dtypes_have_one_model(results):
    first, second = (result["dtypes"] for result in results)
    assert_equal_models(first, second)
    assert first.t_ == first.n_iter_ * (63 + 45)  # both hold out samples


def test_a_mistake_is_an_error_in_all_processes(results):
    for name, (message, text) in results[1]["errors"].items():
        other = results[0]["errors"][name][0]
        assert text in message and text in other, (name, message, other)  # noqa: PT018
        assert other.startswith("RankError: Rank 1 of data_parallel failed") == ("of rank 1" in name), name


def test_fits_continue_after_an_error_in_the_same_context_and_in_another(results):
    for result in results:
        message, model = result["caught"]
        assert message.startswith("ValueError: max_iter must be the same in all processes")
        assert_same_fit(model, result["fits"]["steps"])
    assert_equal_models(*(result["planned"] for result in results))


def test_an_error_within_a_step_ends_all_processes(results):
    assert [result["ranks"] for result in results] == [(0, 2), (1, 2)]
    assert all(results[0][name].startswith(LOST) for name in ("failed", "interrupted", "death"))
    assert results[1]["failed"].startswith("ValueError: loss, a function of")
    assert results[1]["interrupted"].startswith("RankError: Rank 1 has left the others of data_parallel after an error")


def test_a_process_waits_no_longer_than_the_timeout(results):
    assert "or did not reach the same call of fit within timeout=2 seconds" in results[0]["late"]
    assert results[1]["late"].startswith(LOST.replace("Rank 0", "Rank 1"))


@pytest.mark.parametrize("name", rank_uses.RESUMED)
def test_a_checkpoint_continues_to_the_same_bits(name, results):
    for result in results:
        message, [(plain, _), (resumed, _), (finished, _)] = result["resumed"][name]
        assert message.endswith("RuntimeError: crash")
        assert [n_calls for _, n_calls in result["resumed"][name][1]] == [90, 8 * 9, 0]
        assert_equal_models(resumed, finished)
        if name != "seed of the system":
            assert_equal_models(resumed, plain)
    assert_equal_models(*(result["resumed"][name][1][1][0] for result in results))


def test_torchrun_continues_a_fit_after_a_process_was_killed(results, folder):
    """Rank 1 was killed in the fifth epoch."""
    env = {**os.environ, **make_environment(2)}
    options = ["--nproc-per-node", "2", "--master-addr", "127.0.0.1", "--master-port", env["MASTER_PORT"]]
    job = [sys.executable, "-m", "torch.distributed.run", *options, rank_uses.__file__, str(folder), "resume"]
    result = subprocess.run(job, env=env, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr
    for before, after in zip(results, load_results(folder, "resume"), strict=True):
        assert_equal_models(after["killed"], before["planned"])
        assert after["n_calls"] == 6 * 9


def test_a_checkpoint_belongs_to_a_number_of_processes(results, folder, monkeypatch):
    X, y, classifier = rank_uses.X[:70], rank_uses.Y[:70], ScratchNNClassifier(**rank_uses.PLAIN)  # those of rank 0
    with Checkpoint(folder / "net.npz"), pytest.raises(ValueError, match="processes is None in this fit and 2 in the"):
        classifier.fit(X, y)
    for variable, value in make_environment(1).items():
        monkeypatch.setenv(variable, value)
    try:
        with data_parallel() as ranks, Checkpoint(folder / "net.npz"):
            assert tuple(ranks) == (0, 1)
            with pytest.raises(ValueError, match="by as many processes as have written it, 2, got 1"):
                classifier.fit(X, y)
            if hasattr(classifier, "set_callbacks"):  # with scikit-learn from 1.9 on
                with pytest.raises(ValueError, match="set_callbacks takes only a Checkpoint inside data_parallel, got"):
                    classifier.set_callbacks(Mock()).fit(X, y)
    finally:
        dist.destroy_process_group()


def test_timeout_and_environment_are_checked(monkeypatch):
    for timeout in (0, -1, np.inf, "60", True):
        with pytest.raises(ValueError, match="timeout must be a positive number"), data_parallel(timeout=timeout):
            pass
    monkeypatch.delenv("MASTER_PORT", raising=False)
    with pytest.raises(ValueError, match=r"an environment without .*MASTER_PORT.*torchrun"), data_parallel():
        pass
    for variable, value in make_environment(2).items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(RankError, match=r"found all processes within timeout=0\.5 s"), data_parallel(timeout=0.5):
        pass
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    with pytest.raises(ValueError, match=r"first time, got restart 1\. Leave out --max-restarts"), data_parallel():
        pass
    assert not dist.is_initialized()
