"""Tasks see the settings of the process, and the context, that they would see without fusion."""

import contextlib
import contextvars
import decimal
import io
import os
import random
import sys
from unittest import mock

import joblib
import numpy as np
import pytest
import torch
from fusion_helpers import X, network, y
from helpers import within

from scratchnn import fused_fits


def fit(k):
    return network(alpha=float(k)).fit(X, y).loss_


def run(task, n_tasks=3):
    return joblib.Parallel()(joblib.delayed(task)(k) for k in range(n_tasks))


def run_fused(task):
    with fused_fits():
        return run(task)


def get_generators():
    name, words, *rest = np.random.get_state()  # noqa: NPY002
    return random.getstate(), (name, words.tobytes(), *rest), torch.get_rng_state().tolist()


@within(30)
def test_each_task_has_streams_a_directory_and_variables_of_its_own(tmp_path):
    def get_settings():
        return sys.stdout, sys.stderr, os.getcwd(), dict(os.environ)

    def work(k):
        folder, out, err = tmp_path / str(k), io.StringIO(), io.StringIO()
        folder.mkdir(exist_ok=True)
        os.chdir(folder)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), mock.patch.dict(os.environ, K=str(k)):
            print("before", k)
            fit(k)
            print("after", k, os.environ["K"])
            print("error", k, file=sys.stderr)
            seen = os.getcwd()
        fit(k)
        os.chdir(before[2])
        return out.getvalue(), err.getvalue(), seen, "K" in os.environ

    before = get_settings()
    plain = run(work)
    assert run_fused(work) == plain
    assert get_settings() == before
    assert plain[2] == ("before 2\nafter 2 2\n", "error 2\n", str(tmp_path / "2"), False)


@within(30)
def test_what_a_task_leaves_at_its_end_stays(monkeypatch):
    monkeypatch.setenv("SCRATCHNN_DELETED", "1")

    def work(k):
        if k == 0:
            os.environ["SCRATCHNN_SET"] = "of a task"
            del os.environ["SCRATCHNN_DELETED"]
        fit(k)
        os.environ[f"SCRATCHNN_{k}"] = str(k)

    names = ["SCRATCHNN_SET", "SCRATCHNN_0", "SCRATCHNN_1", "SCRATCHNN_2"]
    for name in names:
        monkeypatch.delenv(name, raising=False)
    run_fused(work)
    assert [os.environ.pop(name) for name in names] == ["of a task", "0", "1", "2"]
    assert "SCRATCHNN_DELETED" not in os.environ


def draw():
    return random.random(), np.random.rand(), np.random.randn(), torch.rand(1).item()  # noqa: NPY002


@within(30)
def test_generators_that_a_task_sets_are_its_own():
    def work(k):
        with torch.random.fork_rng(devices=[]):
            seed = 1000 + k  # not the process's own, from which a task that sets it would seem only to draw
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            torch.manual_seed(seed)
            drawn = [draw()]
            for _ in range(2):
                fit(k)
                drawn.append(draw())
        return drawn

    before = get_generators()
    assert run_fused(work) == run(work)
    run_fused(work)
    after_fused = get_generators()
    assert after_fused[2] == before[2]  # as fork_rng promises


@pytest.mark.parametrize("n_drawn", [1, 700, 100_000])
@within(30)
def test_tasks_that_draw_get_different_numbers(n_drawn):
    def work(k):
        drawn = []
        for _ in range(2):
            drawn += [random.random() for _ in range(n_drawn)]
            drawn += [*np.random.rand(n_drawn), *torch.rand(n_drawn, dtype=torch.float64).tolist()]  # noqa: NPY002
            fit(k)
        return drawn

    drawn = [number for numbers in run_fused(work) for number in numbers]
    assert len(set(drawn)) == len(drawn) == 18 * n_drawn


@within(30)
def test_a_bit_generator_of_ones_own_may_be_global():
    if not hasattr(np.random, "set_bit_generator"):
        pytest.skip("NumPy 1.23")
    before = np.random.get_bit_generator()
    np.random.set_bit_generator(np.random.PCG64(0))
    try:
        drawn = run_fused(lambda k: (np.random.rand(), fit(k), np.random.rand()))  # noqa: NPY002
    finally:
        np.random.set_bit_generator(before)
    assert len({number for first, _, second in drawn for number in (first, second)}) == 6


@within(30)
def test_tasks_inherit_the_context():
    variable = contextvars.ContextVar("variable", default="outside")

    def see(k):
        seen = variable.get(), np.geterr()["divide"], decimal.getcontext().prec
        variable.set(f"of task {k}")
        fit(k)
        return *seen, variable.get()

    def run_here():
        variable.set("inside")
        with np.errstate(divide="raise"), decimal.localcontext(decimal.Context(prec=5)):
            return run(see)

    with fused_fits():
        assert run_here() == [("inside", "raise", 5, f"of task {k}") for k in range(3)]
        assert contextvars.copy_context().run(run, lambda k: run_here())[0][2] == ("inside", "raise", 5, "of task 2")


@within(30)
def test_a_directory_that_is_gone_changes_nothing(tmp_path):
    def work(k):
        folder = tmp_path / str(k)
        folder.mkdir()
        os.chdir(folder)
        folder.rmdir()
        loss = fit(k)
        os.chdir(before)
        return loss

    before = os.getcwd()
    assert len(run_fused(work)) == 3
    assert os.getcwd() == before
