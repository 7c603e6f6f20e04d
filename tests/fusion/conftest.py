"""What every test of `fused_fits` leaves as it was, and threads that cannot be started."""

import threading
import warnings

import joblib
import pytest

pytest.register_assert_rewrite("fusion_helpers")
from fusion_helpers import wait_for_task_threads  # noqa: E402


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    filters, backend = list(warnings.filters), type(joblib.parallel.get_active_backend()[0])
    yield
    assert warnings.filters == filters
    assert type(joblib.parallel.get_active_backend()[0]) is backend
    wait_for_task_threads()


@pytest.fixture
def start_with(monkeypatch):
    """Let threads of tasks be started by a function of the thread, the way to start it, and how often it was called."""

    def patch(start):
        original, n_calls = threading.Thread.start, 0

        def start_thread(thread):
            nonlocal n_calls
            if thread.name != "scratchnn-task":
                original(thread)
                return
            n_calls += 1
            start(thread, original, n_calls)

        monkeypatch.setattr(threading.Thread, "start", start_thread)

    return patch
