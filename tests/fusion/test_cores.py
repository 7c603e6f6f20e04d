"""Workers that keep all cores of a machine busy have a core each."""

import contextlib
import os

import joblib
import pytest

from scratchnn import fused_fits
from scratchnn.fusion import cores, workers
from scratchnn.fusion.cores import use_own_core
from scratchnn.fusion.workers import name_process

FIRST, SECOND = 90_001, 90_002  # no machine has them, so no worker of another test


@pytest.fixture
def affinity(monkeypatch):
    """Let the process use two cores, and yield those that it may use, of which the last are current."""
    sets = [{FIRST, SECOND}]
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: sets[-1], raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, allowed: sets.append(allowed), raising=False)
    return sets


def test_each_worker_has_a_core_until_it_ends(affinity):
    with use_own_core(2):
        assert affinity == [{FIRST, SECOND}, {FIRST}]
        affinity.append({FIRST, SECOND})  # another worker
        with use_own_core(2):
            assert affinity[-1] == {SECOND}
            affinity.append({FIRST, SECOND})
            with use_own_core(3):  # a third finds none
                assert affinity[-1] == {FIRST, SECOND}
    assert affinity[-1] == {FIRST, SECOND}


def test_a_worker_that_fails_gives_its_core_back(affinity):
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), use_own_core(2):
            1 / 0  # noqa: B018
        assert affinity[-2:] == [{FIRST}, {FIRST, SECOND}]


@pytest.mark.parametrize("n_workers", [1, 2, 3])
def test_a_worker_with_cores_to_spare_keeps_none(n_workers, affinity):
    affinity.append({FIRST, SECOND, 90_003, 90_004})
    with use_own_core(n_workers):
        assert affinity[-1] == {FIRST, SECOND, 90_003, 90_004}


def test_a_worker_of_one_core_is_left_alone(affinity):
    affinity.append({FIRST})
    with use_own_core(2):
        assert len(affinity) == 2


def test_systems_without_affinity_are_left_alone(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(cores, "_move_to_own_core", None)
    with use_own_core(2):
        pass


def test_systems_that_refuse_are_left_alone(affinity, monkeypatch):
    def refuse(pid, allowed):
        raise PermissionError

    with monkeypatch.context() as patch:
        patch.setattr(os, "sched_setaffinity", refuse)
        with use_own_core(2):
            assert affinity == [{FIRST, SECOND}]
    with use_own_core(2):  # the core is free
        assert affinity[-1] == {FIRST}
        monkeypatch.setattr(os, "sched_setaffinity", refuse)


@pytest.mark.parametrize(("node", "expected"), [(name_process()[0], 2), ("elsewhere", 1)])
def test_portions_of_workers_run_on_their_core(node, expected, monkeypatch):
    inside = []

    @contextlib.contextmanager
    def note(n_workers):
        inside.append(n_workers)
        yield
        inside.append("left")

    monkeypatch.setattr(workers, "use_own_core", note)
    results, _ = workers.run_portion([lambda: list(inside)], 2, (node, os.getpid() + 1))
    assert (results, inside) == ([[expected]], [expected, "left"])
    workers.run_portion([lambda: None], 2, name_process())  # the caller itself
    assert inside == [expected, "left"]


def get_cores():
    return os.sched_getaffinity(0)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system has no affinity")
def test_tasks_of_workers_stay_on_a_core_and_the_caller_does_not():
    allowed = get_cores()
    if not 2 <= len(allowed) <= 4:
        pytest.skip("a machine with two to four cores shows it with few processes")
    with fused_fits(backend="loky", n_jobs=len(allowed)):
        found = joblib.Parallel()(joblib.delayed(get_cores)() for _ in range(4 * len(allowed)))
    # All, where workers of another process, perhaps of another test, have the cores.
    assert all((each < allowed and len(each) == 1) or each == allowed for each in found)
    assert get_cores() == allowed
    # The next call of the same workers, without fused_fits, has all cores again.
    assert joblib.Parallel(n_jobs=len(allowed))(joblib.delayed(get_cores)() for _ in range(8)) == [allowed] * 8
