"""What a process has set is there again after `fused_fits`, and tasks have warning filters of their own."""

import threading
import warnings

import joblib
import pytest
import torch
from fusion_helpers import SpecialError, X, assert_equal_results, fail, make_pipeline_of_two_fits, network, search, y
from helpers import call_in_thread, within
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import cross_val_score

from scratchnn import fused_fits


def get_state():
    return type(joblib.parallel.get_active_backend()[0]), list(warnings.filters), torch.get_num_threads()


@within(60)
def test_state_is_restored(two_threads):
    before = get_state()
    with fused_fits():
        search().fit(X, y)
        assert get_state()[1] == before[1]
    assert get_state() == before
    assert call_in_thread(get_state) == before


@within(60)
def test_state_is_restored_after_an_error(two_threads):
    before = get_state()
    with pytest.raises(SpecialError), fused_fits():  # noqa: PT012
        search().fit(X, y)
        fail()
    assert get_state() == before
    with pytest.raises(SpecialError), fused_fits():
        cross_val_score(make_pipeline_of_two_fits(fail), X, y, error_score="raise")
    assert get_state() == before
    assert call_in_thread(get_state) == before


@within(60)
def test_state_is_restored_within_the_block(two_threads):
    with fused_fits():
        search().fit(X, y)
        assert torch.get_num_threads() == 2


@within(60)
def test_several_threads_each_with_their_own_fused_fits(two_threads):
    before = get_state()
    plain = search().fit(X, y)
    start = threading.Barrier(4)
    outcomes = []

    def use():
        try:
            start.wait()
            for _ in range(5):
                with fused_fits() as report:
                    outcomes.append((report, search().fit(X, y)))
        except BaseException as error:
            outcomes.append((error, None))

    threads = [threading.Thread(target=use, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 20
    for report, result in outcomes:
        assert report.n_fits == 12
        assert_equal_results(result, plain)
    assert get_state() == before
    assert call_in_thread(get_state) == before


@within(60)
def test_warnings_of_tasks_reach_the_user_as_without_fusion():
    def use():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            search(network(n_iter_no_change=100), refit=False).fit(X, y)
        return sorted((each.category.__name__, str(each.message), each.filename, each.lineno) for each in caught)

    plain = use()
    assert len(plain) == 12
    with fused_fits():
        assert use() == plain
    with fused_fits(), pytest.warns(ConvergenceWarning, match="has not converged"):
        search(network(n_iter_no_change=100), refit=False).fit(X, y)


@within(60)
def test_warnings_as_errors_are_errors_of_their_task():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with fused_fits(), pytest.raises(ConvergenceWarning):
            cross_val_score(network(n_iter_no_change=100), X, y, error_score="raise")


def warn_within(action, name):
    """Fit within filters of this task's own, and return what became of a warning afterwards."""
    with warnings.catch_warnings(record=action == "record") as caught:
        warnings.simplefilter("always" if action == "record" else action)
        network().fit(X, y)
        try:
            warnings.warn(name, UserWarning, stacklevel=1)
        except UserWarning:
            return "error"
        network(alpha=1.0).fit(X, y)
        return "silent" if caught is None else [str(each.message) for each in caught]


@within(60)
def test_tasks_have_warning_filters_of_their_own():
    actions = ["ignore", "error", "record", "ignore", "record", "error", "record"]
    before = list(warnings.filters)

    def use():
        return joblib.Parallel()(joblib.delayed(warn_within)(action, str(k)) for k, action in enumerate(actions))

    plain = use()
    assert plain == ["silent", "error", ["2"], "silent", ["4"], "error", ["6"]]
    with fused_fits():
        assert use() == plain
        assert warnings.filters == before


@within(60)
def test_an_error_leaves_no_filters_of_a_task_behind():
    actions = ["ignore", "record", "ignore"]
    before, show = list(warnings.filters), warnings._showwarnmsg_impl
    calls = [joblib.delayed(fail)(), *(joblib.delayed(warn_within)(action, "") for action in actions)]
    for order in (calls, calls[::-1], [*calls[1:3], calls[0], calls[3]]):
        with fused_fits(), pytest.raises(SpecialError):
            joblib.Parallel()(order)
        assert warnings.filters == before
        assert warnings._showwarnmsg_impl is show
