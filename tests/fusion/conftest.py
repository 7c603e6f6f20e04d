"""What every test of `fused_fits` leaves as it was."""

import threading
import warnings

import joblib
import pytest

pytest.register_assert_rewrite("fusion_helpers")


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    filters, backend = list(warnings.filters), type(joblib.parallel.get_active_backend()[0])
    yield
    assert warnings.filters == filters
    assert type(joblib.parallel.get_active_backend()[0]) is backend
    for thread in threading.enumerate():
        if thread.name.startswith("scratchnn"):
            thread.join(10)
            assert not thread.is_alive()
