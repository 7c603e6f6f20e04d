"""The bar of `fused_fits`: what it counts, what it writes, and that it ends."""

import io
import itertools
import re
import sys
import threading

import numpy as np
import pytest
from fusion_helpers import Doing, SpecialError, fail, interrupt, make_pipeline_of_two_fits, network, search
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import cross_val_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from small_problems import X, labels, y

from scratchnn import fused_fits
from scratchnn.fusion import backend
from scratchnn.fusion.progress_bar import Bar

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
        (lambda: cross_val_score(make_pipeline_of_two_fits(None), X, y, cv=3), 6),
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
    with pytest.raises((SpecialError, KeyboardInterrupt)), fused_fits(progress=True):
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
        with pytest.raises(SpecialError):
            cross_val_score(make_pipeline(Doing(fail), network()), X, y, cv=2, n_jobs=2, error_score="raise")
    assert report.n_fits == 4
    assert drawn[-1][0] == "fused_fits: 8 of 10 fits, 4 stacks"


def test_a_missing_tqdm_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ImportError, match=r"progress=True needs tqdm.*pip install"), fused_fits(progress=True):
        pass
