"""What every test of `fused_fits` leaves as it was, and how long it may take."""

import signal
import threading
import warnings

import joblib
import pytest

pytest.register_assert_rewrite("fusion_helpers")
LIMIT = 300  # seconds


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    filters, backend = list(warnings.filters), type(joblib.parallel.get_active_backend()[0])
    yield
    assert warnings.filters == filters
    assert type(joblib.parallel.get_active_backend()[0]) is backend
    for thread in threading.enumerate():
        if thread.name.startswith("scratchnn") and "helper" not in thread.name:  # helpers of training stay
            thread.join(10)
            assert not thread.is_alive()


@pytest.fixture(autouse=True)
def nothing_waits_forever():
    def strike(*args):
        pytest.fail(f"still not done after {LIMIT} s")

    if not hasattr(signal, "SIGALRM"):  # Windows
        yield
        return
    before = signal.signal(signal.SIGALRM, strike)
    signal.alarm(LIMIT)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
