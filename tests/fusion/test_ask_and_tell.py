"""Optuna's trials in batches: the code of docs/guide/fusion.rst runs, in stacks, and prunes."""

import re
import textwrap
import warnings
from contextlib import contextmanager

import pytest
from helpers import ROOT
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

from scratchnn import fused_fits

optuna = pytest.importorskip("optuna")


def read_example():
    """Return the code block of the section on Optuna."""
    section = (ROOT / "docs" / "guide" / "fusion.rst").read_text(encoding="utf-8").split("\nOptuna in batches\n")[1]
    block = re.search(r"\.\. code-block:: python\n\n((?:    .*\n|\n)+)", section).group(1)
    return textwrap.dedent(block)


@pytest.fixture(scope="module")
def study_and_reports():
    """Run the example on a small table. Return the study, and what each `fused_fits` trained."""
    X_train, X_val, y_train, y_val = train_test_split(*load_breast_cancer(return_X_y=True), random_state=0)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    reports = []

    @contextmanager
    def noting_fits():
        with fused_fits() as report:
            reports.append(report)
            yield report

    namespace = {"X_train": X_train, "y_train": y_train, "X_val": X_val, "y_val": y_val}
    code = read_example().replace("import ScratchNNClassifier, fused_fits", "import ScratchNNClassifier")
    namespace["fused_fits"] = noting_fits
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of optuna: constant_liar is experimental
        exec(compile(code, "fusion.rst", "exec"), namespace)
    return namespace["study"], reports


def test_trials_train_as_stacks(study_and_reports):
    _, reports = study_and_reports
    assert [stack.n_models for stack in reports[0].stacks] == [8]
    assert all(len(report.stacks) <= 1 for report in reports)


def test_all_trials_are_told(study_and_reports):
    study, _ = study_and_reports
    states = [trial.state.name for trial in study.trials]
    assert len(states) == 24
    assert set(states) == {"COMPLETE", "PRUNED"}
    assert study.best_value > -0.15
