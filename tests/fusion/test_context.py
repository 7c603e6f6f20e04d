"""The parameters of `fused_fits`, its report, and its bar: what it counts, what it writes, and that it ends."""

import dataclasses
import io
import itertools
import re
import sys
import threading
from functools import partial
from xml.etree import ElementTree

import numpy as np
import pytest
from fusion_helpers import Doing, OwnError, check_same, fail, interrupt, make_two_fits, network, search, squared_logits
from scipy import sparse
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import cross_val_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from small_problems import X, labels, y

from scratchnn import fused_fits
from scratchnn.fusion import FusionReport, TrainedStack, backend
from scratchnn.fusion.progress_bar import Bar


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"verbose": "yes"}, "verbose must be a bool or an int of at least 0, got 'yes'"),
        ({"verbose": -1}, "verbose must be a bool or an int of at least 0, got -1"),
        ({"progress": 1}, "progress must be a bool, got 1"),
    ],
)
def test_wrong_parameters_are_refused_at_the_beginning(settings, message):
    with pytest.raises(ValueError, match=message):
        fused_fits(**settings).__enter__()


def test_every_fit_of_equal_shape_is_in_one_stack():
    assert [stack.n_models for stack in check_same(lambda: search().fit(X, y)).stacks] == [12]
    assert [stack.n_models for stack in check_same(lambda: cross_val_score(network(), X, y)).stacks] == [5]
    assert [stack.n_models for stack in check_same(lambda: OneVsRestClassifier(network()).fit(X, y)).stacks] == [3]
    nested = check_same(lambda: cross_val_score(search(), X, y, cv=2))
    assert [stack.n_models for stack in nested.stacks] == [24, 2]

    def fit_inner(n_jobs):
        inner = OneVsRestClassifier(network(), n_jobs=n_jobs)
        model = search(inner, {"estimator__alpha": [0.1, 1.0]}, scoring="neg_log_loss", refit=False)
        return model.fit(X, y).cv_results_["mean_test_score"].tolist()

    with fused_fits() as report:
        assert fit_inner(2) == fit_inner(None)
    assert [stack.n_models for stack in report.stacks] == [18, 18]


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


def test_the_report_as_a_frame():
    pd = pytest.importorskip("pandas")
    columns = ["n_models", "layers", "n_samples", "seconds", "seconds_per_fit", "unfused_reason"]
    rows = [[3, "4-5-3", 80, 0.6, 0.6 / 3, None], [1, "4-3", 90, 0.25, 0.25, "solver='lbfgs' <alone>"]]
    pd.testing.assert_frame_equal(make_report().to_frame(), pd.DataFrame(rows, columns=columns))
    assert list(FusionReport().to_frame().columns) == columns


def test_what_is_not_installed_is_named(monkeypatch):
    for name in ("pandas", "tqdm.auto"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"to_frame needs pandas.*pip install pandas"):
        FusionReport().to_frame()
    with pytest.raises(ImportError, match=r"progress=True needs tqdm.*pip install"):
        fused_fits(progress=True).__enter__()


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


class UnhashableLoss(FrozenLoss):
    __hash__ = None


@pytest.mark.parametrize("loss", [squared_logits, FrozenLoss(), UnhashableLoss(), partial(squared_logits)])
def test_losses_that_equal_no_copy_train_alone_and_the_report_says_why(loss):
    report = check_same(lambda: cross_val_score(network(loss=loss), X, y, cv=3, scoring="neg_log_loss"))
    is_equal = type(loss) is FrozenLoss or loss is squared_logits
    assert [stack.n_models for stack in report.stacks] == ([3] if is_equal else [1] * 3)
    reason = report.stacks[0].unfused_reason or ""
    assert reason.startswith("" if is_equal else "its loss does not equal its own copy: use a function, or a class")


@pytest.fixture
def drawn(monkeypatch):
    """Texts and shares of the bar, drawn again and again."""
    pytest.importorskip("tqdm", reason="the bar is tqdm's")
    shares = []
    original = Bar.draw

    def draw(bar):
        original(bar)
        shares.append((bar.bar.desc.removesuffix(": "), bar.bar.n))

    monkeypatch.setattr(Bar, "draw", draw)
    monkeypatch.setattr(Bar, "INTERVAL", 0.001)
    yield shares
    assert all(thread.name != "scratchnn-bar" for thread in threading.enumerate())


def test_the_bar_counts_tasks_stacks_and_the_final_fit(drawn, capsys):
    plain = search(network(max_iter=40)).fit(X, y)
    with fused_fits(progress=True) as report:
        with_bar = search(network(max_iter=40)).fit(X, y)
    assert report.n_fits == 12
    assert drawn[-1] == ("fused_fits: 13 of 13 fits, 1 stack", 1.0)
    shares = [share for text, share in drawn if " of 12 fits, 0 stacks" in text]
    assert shares == sorted(shares)  # it moves while the stack trains, also where a busy machine drew it rarely
    written = capsys.readouterr()
    assert written.out == ""
    assert re.search(r"13 of 13 fits, 1 stack:? 100%\|.*\| 00:\d\d<00:00\n$", written.err)
    np.testing.assert_array_equal(with_bar.predict_proba(X), plain.predict_proba(X))


@pytest.mark.parametrize(
    ("use", "n_fits"),
    [
        (lambda: cross_val_score(make_two_fits(None), X, y, cv=3), 6),
        (lambda: cross_val_score(OneVsRestClassifier(network()), X, labels, cv=3), 3 + 3 * 3),  # outer tasks, and inner
        (lambda: cross_val_score(RandomForestClassifier(2), X, y, cv=3), 3),
        (lambda: network().fit(X, y), 1),
    ],
    ids=["two fits a task", "tasks in tasks", "no networks", "no task"],
)
def test_each_fit_and_each_task_without_one_counts_once(use, n_fits, drawn):
    with fused_fits(progress=True):
        use()
    assert drawn[-1][0].startswith(f"fused_fits: {n_fits} of {n_fits} fits, ")


@pytest.mark.parametrize("make_error", [fail, interrupt])
def test_the_bar_stays_where_it_was_after_errors_and_interrupts(make_error, drawn, capsys):
    n_calls = itertools.count(1)

    def fail_first():
        sys.stderr = io.StringIO()  # the bar is written where standard error was at the beginning
        threading.Event().wait(0.02)
        if next(n_calls) == 1:
            make_error()

    endless = network(max_iter=10**6, learning_rate="constant")
    with pytest.raises((OwnError, KeyboardInterrupt)), fused_fits(progress=True):
        cross_val_score(make_pipeline(Doing(fail_first), endless), X, y, cv=5, error_score="raise")
    text, share = drawn[-1]
    assert text.startswith("fused_fits: 1 of 5 fits, ")  # the one that failed
    assert 0.2 <= share < 0.4
    assert re.search(r"1 of 5 fits.*\n$", capsys.readouterr().err)


def test_chunks_count_when_they_end(drawn, monkeypatch):
    monkeypatch.setattr(backend, "MIN_CHUNK", 1)
    with fused_fits(progress=True) as report:
        cross_val_score(Doing(), X, y, cv=4, scoring=lambda *args: 0.0, n_jobs=2)
        cross_val_score(network(), X, y, cv=4, n_jobs=2)
        with pytest.raises(OwnError):
            cross_val_score(make_pipeline(Doing(fail), network()), X, y, cv=2, n_jobs=2, error_score="raise")
    assert report.n_fits == 4
    assert drawn[-1][0] == "fused_fits: 8 of 10 fits, 4 stacks"
