"""The bar of `fused_fits`: what it counts, what it writes, and that it ends."""

import io
import itertools
import re
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from fusion_helpers import (
    Doing,
    SpecialError,
    X,
    fail,
    interrupt,
    labels,
    make_pipeline_of_two_fits,
    network,
    search,
    y,
)
from helpers import within
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import cross_val_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline

from scratchnn import fused_fits
from scratchnn.fusion import FusionReport
from scratchnn.fusion.pool import WaitingRun
from scratchnn.fusion.progress import Bar, calc_share
from scratchnn.fusion.scheduler import Scheduler
from scratchnn.fusion.task import Task
from scratchnn.fusion.workers import DealtCalls

pytest.importorskip("tqdm", reason="the bar is tqdm's")


@pytest.fixture
def drawn(monkeypatch):
    """Texts and shares of the bar, drawn again and again."""
    shares = []
    original = Bar.draw

    def draw(bar):
        original(bar)
        shares.append((bar.bar.desc.removesuffix(": "), bar.bar.n))

    monkeypatch.setattr(Bar, "draw", draw)
    monkeypatch.setattr(Bar, "INTERVAL", 0.001)
    yield shares
    assert all(thread.name != "scratchnn-bar" for thread in threading.enumerate())


@within(60)
def test_the_bar_counts_tasks_stacks_and_the_final_fit(drawn, capsys):
    with fused_fits(progress=True) as report:
        search(network(max_iter=40)).fit(X, y)
    assert report.n_fits == 12
    assert drawn[-1] == ("fused_fits: 13 of 13 fits, 1 stack", 1.0)
    shares = [share for text, share in drawn if " of 12 fits, 0 stacks" in text]
    assert shares == sorted(shares)  # it moves while the stack trains, also where a busy machine drew it rarely
    written = capsys.readouterr()
    assert written.out == ""
    assert re.search(r"13 of 13 fits, 1 stack:? 100%\|.*\| 00:\d\d<00:00\n$", written.err)


@pytest.mark.parametrize(
    ("use", "n_fits"),
    [
        (lambda: cross_val_score(make_pipeline_of_two_fits(None), X, y, cv=3), 6),
        (lambda: cross_val_score(OneVsRestClassifier(network()), X, labels, cv=3), 3 + 3 * 3),  # outer tasks, and inner
        (lambda: cross_val_score(RandomForestClassifier(2), X, y, cv=3), 3 + 3 * 2 * 2),  # fit and predict
        (lambda: network().fit(X, y), 1),
        (lambda: None, 0),
    ],
    ids=["two fits a task", "tasks in tasks", "no networks", "no task", "nothing"],
)
@within(60)
def test_each_fit_and_each_task_without_one_counts_once(use, n_fits, drawn):
    with fused_fits(progress=True):
        use()
    assert drawn[-1][0].startswith(f"fused_fits: {n_fits} of {n_fits} fits, ")


@pytest.mark.parametrize("make_error", [fail, interrupt])
@within(60)
def test_the_bar_stays_where_it_was_after_errors_and_interrupts(make_error, drawn, capsys):
    n_calls = itertools.count(1)

    def fail_first():
        if next(n_calls) == 1:
            make_error()

    model = make_pipeline(Doing(fail_first), network(max_iter=10**6))  # the others would train for long

    with pytest.raises((SpecialError, KeyboardInterrupt)), fused_fits(progress=True):
        cross_val_score(model, X, y, cv=5, error_score="raise")
    text, share = drawn[-1]
    assert text.startswith("fused_fits: 1 of 5 fits, ")  # the one that failed
    assert 0.2 <= share < 0.4
    assert capsys.readouterr().err.endswith("\n")


def test_portions_that_are_lost_do_not_count():
    scheduler = Scheduler(FusionReport())
    calls = DealtCalls(SimpleNamespace(n_completed_tasks=3), sizes=[4, 3, 2, 1])
    with pytest.raises(SpecialError), scheduler.count_also(calls):
        fail()
    assert scheduler.count_fits() == (9, 10)
    with scheduler.count_also(calls):  # joblib may count the last portion after the end
        pass
    assert scheduler.count_fits() == (19, 20)
    assert scheduler.counters == [scheduler]


@within(60)
def test_the_bar_is_written_where_standard_error_was_at_the_beginning(drawn):
    """Not where a task has sent it meanwhile."""
    elsewhere, outer = io.StringIO(), io.StringIO()

    def redirect():
        sys.stderr = elsewhere
        time.sleep(0.02)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", outer)
        with fused_fits(progress=True):
            cross_val_score(make_pipeline_of_two_fits(redirect), X, y, cv=2)
    assert elsewhere.getvalue() == ""
    assert "4 of 4 fits" in outer.getvalue()


@within(60)
def test_lines_of_verbose_go_above_the_bar(drawn, capsys):
    with fused_fits(progress=True, verbose=True):
        cross_val_score(network(), X, y, cv=3)
    assert re.fullmatch(r"\[fused_fits\] 3 x 4-5-3 on 80 rows: \d\.\d\d s\n", capsys.readouterr().out)


@within(60)
def test_fits_are_the_same_with_a_bar(drawn):
    plain = search().fit(X, y)
    with fused_fits(progress=True):
        with_bar = search().fit(X, y)
    np.testing.assert_allclose(with_bar.cv_results_["mean_test_score"], plain.cv_results_["mean_test_score"])
    np.testing.assert_array_equal(with_bar.predict_proba(X), plain.predict_proba(X))


@within(60)
def test_without_a_thread_the_end_is_drawn(monkeypatch, capsys):
    def refuse(thread):
        if thread.name == "scratchnn-bar":
            raise RuntimeError("can't start new thread")
        start(thread)

    start = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with fused_fits(progress=True):
        cross_val_score(network(), X, y, cv=3)
    assert "3 of 3 fits" in capsys.readouterr().err


@within(60)
def test_portions_count_when_they_end(drawn):
    with fused_fits(backend="threading", n_jobs=2, progress=True) as report:
        cross_val_score(Doing(), X, y, cv=4, scoring=lambda *args: 0.0)
        cross_val_score(network(), X, y, cv=4)
    assert report.n_fits == 4
    assert drawn[-1][0] == "fused_fits: 8 of 8 fits, 2 stacks"


def test_dealt_calls_count_by_portions():
    parallel = SimpleNamespace()
    calls = DealtCalls(parallel, sizes=[4, 3, 2, 1])
    assert calls.count_fits() == (0, 10)
    parallel.n_completed_tasks = 3
    assert calls.count_fits() == (9, 10)


def test_epochs_count_within_a_fit():
    scheduler = Scheduler(FusionReport())
    run = SimpleNamespace(n_epochs=10, settings=SimpleNamespace(max_iter=40))
    for n_fits, entry in ((0, None), (2, WaitingRun(run)), (1, None)):  # before its fit, in training, scored
        task = Task(scheduler, fail, fail, 0)
        task.n_fits, task.entry = n_fits, entry
        scheduler.started[task] = None
    scheduler.unstarted.append("task")
    scheduler.n_ended = 3
    assert calc_share(run) == 0.25
    assert scheduler.count_fits() == (3 + 0 + 1.25 + 1, 3 + 1 + 1 + 2 + 1)


@pytest.mark.parametrize("progress", ["yes", 1, None])
def test_other_values_are_refused(progress):
    with pytest.raises(ValueError, match=r"progress must be a bool, got .*Use True"), fused_fits(progress=progress):
        pass


def test_a_missing_tqdm_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ImportError, match=r"progress=True needs tqdm.*pip install"), fused_fits(progress=True):
        pass
