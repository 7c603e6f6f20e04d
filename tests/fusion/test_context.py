"""The parameters of `fused_fits`, and its report."""

import sys
from xml.etree import ElementTree

import joblib
import numpy as np
import pytest
from fusion_helpers import X, check_same, network, search, y
from helpers import within
from joblib.parallel import BACKENDS, EXTERNAL_BACKENDS
from scipy import sparse
from sklearn.model_selection import cross_val_score
from sklearn.multiclass import OneVsRestClassifier

from scratchnn import fused_fits
from scratchnn.fusion import FusionReport, TrainedStack


@pytest.mark.parametrize("backend", [None, "loky"])
@within(60)
def test_zero_jobs_are_refused_as_joblib_does(backend):
    with pytest.raises(ValueError, match="n_jobs == 0") as expected:
        joblib.Parallel(n_jobs=0)(joblib.delayed(pow)(1, 1) for _ in range(2))
    with fused_fits(backend=backend), pytest.raises(ValueError, match="n_jobs == 0") as error:
        joblib.Parallel(n_jobs=0)(joblib.delayed(pow)(1, 1) for _ in range(2))
    assert str(error.value) == str(expected.value)


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"n_jobs": 2}, ["n_jobs must go with a backend", "got 2", "Use backend="]),
        ({"n_jobs": 0}, ["n_jobs must not be 0", "got 0", "Use "]),
        ({"n_jobs": 0, "backend": "loky"}, ["n_jobs must not be 0", "got 0", "Use "]),
    ],
)
def test_wrong_parameters_are_refused(settings, parts):
    with pytest.raises(ValueError) as error, fused_fits(**settings):
        pass
    for part in parts:
        assert part in str(error.value)


def test_an_unknown_backend_is_refused():
    with pytest.raises(ValueError, match="no_such"), fused_fits(backend="no_such"):
        cross_val_score(network(), X, y)


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"backend": "loki"}, ["backend must be", "'loki'", "'loky'", "'multiprocessing'", "'threading'", "'dask'"]),
        ({"backend": "ray"}, ["backend must be", "'ray'", "ray.util.joblib.register_ray"]),
        ({"backend": ""}, ["backend must be", "got ''", "Use 'loky'"]),
        ({"backend": 3}, ["backend must be", "got 3", "Use 'loky'"]),
        ({"backend": ["loky"]}, ["backend must be", "got ['loky']", "Use 'loky'"]),
        ({"backend": BACKENDS["threading"]}, ["backend must be", "ThreadingBackend", "an instance"]),
        ({"backend": "loky", "n_jobs": 1.5}, ["n_jobs must be an int or None", "got 1.5", "Use the number"]),
        ({"backend": "loky", "n_jobs": "2"}, ["n_jobs must be an int or None", "got '2'", "Use the number"]),
        ({"backend": "loky", "n_jobs": True}, ["n_jobs must be an int or None", "got True", "Use the number"]),
        ({"n_jobs": 0.0}, ["n_jobs must be an int or None", "got 0.0"]),
        ({"verbose": "yes"}, ["verbose must be a bool or an int", "got 'yes'", "Use True"]),
        ({"verbose": -1}, ["verbose must be a bool or an int", "got -1"]),
        ({"verbose": None}, ["verbose must be a bool or an int", "got None"]),
        ({"verbose": 0.5}, ["verbose must be a bool or an int", "got 0.5"]),
    ],
)
def test_wrong_parameters_are_refused_at_the_beginning(settings, parts):
    entered = False
    with pytest.raises(ValueError) as error, fused_fits(**settings):
        entered = True
    assert not entered
    for part in parts:
        assert part in str(error.value)


class OwnBackend(BACKENDS["sequential"]):
    """A backend of a user's."""


@pytest.mark.parametrize("as_instance", [False, True])
@within(60)
def test_a_backend_of_ones_own_is_accepted(as_instance, monkeypatch):
    joblib.register_parallel_backend("own", OwnBackend)
    try:
        with fused_fits(backend=OwnBackend() if as_instance else "own", n_jobs=np.int64(2), verbose=np.True_) as report:
            search(refit=False).fit(X, y)
    finally:
        del BACKENDS["own"]
    assert report.n_fits == 12


def test_a_backend_that_is_not_ready_says_what_to_do(monkeypatch):
    def fail_to_import():
        raise ImportError("To use dask, install it")

    monkeypatch.delitem(BACKENDS, "dask", raising=False)
    monkeypatch.setitem(EXTERNAL_BACKENDS, "dask", fail_to_import)
    message = r"backend must be ready for use, got 'dask', .*install it. Install distributed, and make a client first"
    with pytest.raises(ValueError, match=message), fused_fits(backend="dask"):
        pass

    def fail_to_connect(**settings):
        raise OSError("no connection")

    monkeypatch.setitem(BACKENDS, "own", fail_to_connect)
    with pytest.raises(ValueError, match=r"got 'own', which is not: no connection. Make it ready before"):  # noqa: SIM117
        with fused_fits(backend="own"):
            pass


@pytest.mark.filterwarnings("ignore")
def test_dask_without_a_client_says_what_to_do():
    pytest.importorskip("distributed")
    with pytest.raises(ValueError, match=r"(?s)got 'dask', .*make a client first: distributed.Client()"):  # noqa: SIM117
        with fused_fits(backend="dask"):
            pass


@within(60)
def test_every_fit_of_equal_shape_is_in_one_stack():
    assert [stack.n_models for stack in check_same(lambda: search().fit(X, y)).stacks] == [12]
    assert [stack.n_models for stack in check_same(lambda: cross_val_score(network(), X, y)).stacks] == [5]
    assert [stack.n_models for stack in check_same(lambda: OneVsRestClassifier(network()).fit(X, y)).stacks] == [3]
    nested = check_same(lambda: cross_val_score(search(), X, y, cv=2))
    assert [stack.n_models for stack in nested.stacks] == [24, 2]


@within(60)
def test_fits_that_cannot_be_stacked_are_reported():
    with fused_fits() as report:
        cross_val_score(network(solver="lbfgs", tol=1e9), X, y, cv=2)
        cross_val_score(network(), sparse.csr_array(X), y, cv=2)
    assert [(stack.n_models, stack.alone is not None) for stack in report.stacks] == [(1, True)] * 4
    assert str(report).startswith("4 fits in 4 stacks")


@within(60)
def test_the_report_says_what_was_trained_and_why_alone(capsys):
    with fused_fits(verbose=True) as report:
        cross_val_score(network(), X, y, cv=3)
        cross_val_score(network(solver="lbfgs", max_iter=500, tol=0.1), X, y, cv=2)
    assert [stack.n_models for stack in report.stacks] == [3, 1, 1]
    assert report.stacks[0].sizes == (4, 5, 3)
    assert report.stacks[0].seconds_per_fit == report.stacks[0].seconds / 3 > 0
    assert report.stacks[0].alone is None
    assert "lbfgs" in report.stacks[1].alone
    assert "3 x 4-5-3 on 80 rows" in str(report)
    assert "[fused_fits] 3 x 4-5-3 on 80 rows" in capsys.readouterr().out


def make_report():
    stacks = [TrainedStack(3, 0.6, (4, 5, 3), 80, None), TrainedStack(1, 0.25, (4, 3), 90, "solver='lbfgs' <alone>")]
    return FusionReport(stacks, ["n_jobs was not used: <b>"])


def test_the_report_as_a_frame():
    pd = pytest.importorskip("pandas")
    expected = {
        "n_models": [3, 1],
        "layers": ["4-5-3", "4-3"],
        "n_samples": [80, 90],
        "seconds": [0.6, 0.25],
        "seconds_per_fit": [0.6 / 3, 0.25],
        "alone": [None, "solver='lbfgs' <alone>"],
    }
    pd.testing.assert_frame_equal(make_report().to_frame(), pd.DataFrame(expected))
    assert list(FusionReport().to_frame().columns) == list(expected)


def test_a_frame_needs_pandas(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"to_frame needs pandas.*pip install pandas"):
        FusionReport().to_frame()


def test_the_report_in_a_notebook_is_a_table_with_escaped_texts():
    html = make_report()._repr_html_()
    ElementTree.fromstring(f"<div>{html}</div>")  # raises where tags do not match
    assert "<p>4 fits in 2 stacks, 0.85 s of training</p>" in html
    assert "<p>n_jobs was not used: &lt;b&gt;</p>" in html
    assert "<tr><td>3</td><td>4-5-3</td><td>80</td><td>0.6</td><td>0.2</td><td></td></tr>" in html
    assert "<td>solver=&#x27;lbfgs&#x27; &lt;alone&gt;</td>" in html
    assert "<table" not in FusionReport()._repr_html_()
    assert "alone" not in FusionReport(make_report().stacks[:1])._repr_html_()
