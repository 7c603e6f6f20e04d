"""The parameters of `fused_fits`, and its report."""

import dataclasses
import sys
from functools import partial
from xml.etree import ElementTree

import pytest
from fusion_helpers import check_same, network, search, squared_logits
from scipy import sparse
from sklearn.model_selection import cross_val_score
from sklearn.multiclass import OneVsRestClassifier
from small_problems import X, y

from scratchnn import fused_fits
from scratchnn.fusion import FusionReport, TrainedStack


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"verbose": "yes"}, ["verbose must be a bool or an int", "got 'yes'"]),
        ({"verbose": -1}, ["verbose must be a bool or an int", "got -1"]),
        ({"progress": 1}, ["progress must be a bool", "got 1"]),
    ],
)
def test_wrong_parameters_are_refused_at_the_beginning(settings, parts):
    with pytest.raises(ValueError) as error:
        fused_fits(**settings).__enter__()
    for part in parts:
        assert part in str(error.value)


def test_every_fit_of_equal_shape_is_in_one_stack():
    assert [stack.n_models for stack in check_same(lambda: search().fit(X, y)).stacks] == [12]
    assert [stack.n_models for stack in check_same(lambda: cross_val_score(network(), X, y)).stacks] == [5]
    assert [stack.n_models for stack in check_same(lambda: OneVsRestClassifier(network()).fit(X, y)).stacks] == [3]
    nested = check_same(lambda: cross_val_score(search(), X, y, cv=2))
    assert [stack.n_models for stack in nested.stacks] == [24, 2]


def test_the_report_says_what_was_trained_and_why_alone(capsys):
    with fused_fits(verbose=True) as report:
        cross_val_score(network(), X, y, cv=3)
        cross_val_score(network(solver="lbfgs", max_iter=500, tol=0.1), X, y, cv=2)
        cross_val_score(network(), sparse.csr_array(X), y, cv=2)
    assert [stack.n_models for stack in report.stacks] == [3, 1, 1, 1, 1]
    assert report.stacks[0].sizes == (4, 5, 3)
    assert report.stacks[0].seconds_per_fit == report.stacks[0].seconds / 3 > 0
    assert report.stacks[0].unfused_reason is None
    assert ["lbfgs" in stack.unfused_reason for stack in report.stacks[1:]] == [True, True, False, False]
    assert ["sparse" in stack.unfused_reason for stack in report.stacks[1:]] == [False, False, True, True]
    assert "3 x 4-5-3 on 80 samples" in str(report)
    assert "[fused_fits] 3 x 4-5-3 on 80 samples" in capsys.readouterr().out


def make_report():
    stacks = [TrainedStack(3, 0.6, (4, 5, 3), 80, None), TrainedStack(1, 0.25, (4, 3), 90, "solver='lbfgs' <alone>")]
    return FusionReport(stacks, n_outside=1)


def test_the_report_as_a_frame(monkeypatch):
    pd = pytest.importorskip("pandas")
    expected = {
        "n_models": [3, 1],
        "layers": ["4-5-3", "4-3"],
        "n_samples": [80, 90],
        "seconds": [0.6, 0.25],
        "seconds_per_fit": [0.6 / 3, 0.25],
        "unfused_reason": [None, "solver='lbfgs' <alone>"],
    }
    pd.testing.assert_frame_equal(make_report().to_frame(), pd.DataFrame(expected))
    assert list(FusionReport().to_frame().columns) == list(expected)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"to_frame needs pandas.*pip install pandas"):
        FusionReport().to_frame()


def test_the_report_in_a_notebook_is_a_table_with_escaped_texts():
    html = make_report()._repr_html_()
    ElementTree.fromstring(f"<div>{html}</div>")  # raises where tags do not match
    assert "<p>4 fits in 2 stacks, 0.85 s of training</p>" in html
    assert "<p>1 fit outside of joblib&#x27;s tasks, trained alone</p>" in html
    assert "<tr><td>3</td><td>4-5-3</td><td>80</td><td>0.6</td><td>0.2</td><td></td></tr>" in html
    assert "<td>solver=&#x27;lbfgs&#x27; &lt;alone&gt;</td>" in html
    assert "<table" not in FusionReport()._repr_html_()
    assert "alone" not in FusionReport(make_report().stacks[:1])._repr_html_()


def test_fits_outside_of_tasks_are_counted_and_the_report_says_how_to_fuse_them():
    with fused_fits() as report:
        for alpha in (0.1, 1.0, 10.0):
            network(alpha=alpha).fit(X, y)
    assert (report.n_fits, report.n_outside) == (0, 3)
    assert str(report).splitlines()[1] == "3 fits outside of joblib's tasks, trained alone: use joblib.Parallel"
    with fused_fits() as report:
        search().fit(X, y)
    assert str(report).splitlines()[1] == "1 fit outside of joblib's tasks, trained alone"  # the final one


@dataclasses.dataclass(frozen=True)
class FrozenLoss:
    """A loss that equals its copy."""

    factor: float = 1.0

    def __call__(self, logits, deps):
        return self.factor * squared_logits(logits, deps)


def scaled_logits(logits, deps, factor):
    return factor * squared_logits(logits, deps)


@dataclasses.dataclass
class ChangeableLoss:
    """A loss without a hash."""

    factor: float = 1.0
    __call__ = FrozenLoss.__call__


@pytest.mark.parametrize("loss", [squared_logits, FrozenLoss(), ChangeableLoss(), partial(scaled_logits, factor=1.0)])
def test_losses_that_equal_no_copy_train_alone_and_the_report_says_why(loss):
    report = check_same(lambda: cross_val_score(network(loss=loss), X, y, cv=3, scoring="neg_log_loss"))
    is_equal = isinstance(loss, FrozenLoss) or loss is squared_logits
    assert [stack.n_models for stack in report.stacks] == ([3] if is_equal else [1] * 3)
    reason = report.stacks[0].unfused_reason or ""
    assert reason.startswith("" if is_equal else "its loss does not equal its own copy: use a function, or a class")
