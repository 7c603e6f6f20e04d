"""Optuna's trials in batches: the code of docs/guide/fusion.rst runs, in stacks, and prunes."""

import warnings
from contextlib import contextmanager

import pytest
from helpers import ROOT, find_code_blocks
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

import scratchnn
from scratchnn import fused_fits

optuna = pytest.importorskip("optuna")


def test_trials_train_as_stacks_and_all_are_told(monkeypatch):
    reports = []

    @contextmanager
    def noting_fits():
        with fused_fits() as report:
            reports.append(report)
            yield report

    monkeypatch.setattr(scratchnn, "fused_fits", noting_fits)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    page = (ROOT / "docs" / "guide" / "fusion.rst").read_text(encoding="utf-8")
    (code,) = [code for _, code in find_code_blocks(page) if "study.ask()" in code]
    names = ["X_train", "X_val", "y_train", "y_val"]
    space = dict(zip(names, train_test_split(*load_breast_cancer(return_X_y=True), random_state=0), strict=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of optuna: constant_liar is experimental
        exec(compile(code, "fusion.rst", "exec"), space)
    assert [stack.n_models for stack in reports[0].stacks] == [8]
    assert all(len(report.stacks) <= 1 for report in reports)
    states = [trial.state.name for trial in space["study"].trials]
    assert len(states) == 24
    assert set(states) == {"COMPLETE", "PRUNED"}
    assert space["study"].best_value > -0.15
