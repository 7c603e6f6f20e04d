"""Equal data of runs that wait are kept once."""

import joblib
import pytest
from fusion_helpers import X, check_same, network, sample_weight, search, y
from helpers import within

from scratchnn import fused_fits
from scratchnn.fusion import pool
from scratchnn.training import make_stacks


@pytest.mark.parametrize("weights", [None, sample_weight])
@pytest.mark.parametrize("early_stopping", [False, True])
@within(60)
def test_folds_of_many_candidates_are_kept_once(monkeypatch, weights, early_stopping):
    runs = []

    def record(given):
        runs.extend(given)
        return make_stacks(given)

    monkeypatch.setattr(pool, "make_stacks", record)
    with fused_fits():
        search(network(early_stopping=early_stopping), refit=False).fit(X, y, sample_weight=weights)
    assert len(runs) == 12
    assert len({id(run.data) for run in runs}) == 3
    assert len({id(run.validation) for run in runs}) == (3 if early_stopping else 1)


@within(60)
def test_data_that_differ_in_one_number_are_kept_apart():
    changed_X, changed_y, changed_weight = X.copy(), y.copy(), sample_weight.copy()
    changed_X[7, 2] += 1
    changed_y[7] = (y[7] + 1) % 3
    changed_weight[7] *= 2
    datas = [(X, y, sample_weight), (changed_X, y, sample_weight), (X, changed_y, sample_weight), (X, y, None)]
    datas += [(X, y, changed_weight), (X, y, 2 * sample_weight)]

    def use():
        fits = [network(standardize=False, alpha=1.0).fit for _ in datas]
        return joblib.Parallel()(joblib.delayed(fit)(*data) for fit, data in zip(fits, datas, strict=True))

    report = check_same(use)
    assert [stack.n_models for stack in report.stacks] == [6]


@within(60)
def test_little_memory_trains_what_there_is(monkeypatch):
    monkeypatch.setattr(pool, "count_memory", lambda: 4 * 5 * 3 * 80 * (4 + 3) * 8)
    report = check_same(lambda: search(refit=False).fit(X, y))
    assert 1 < len(report.stacks) <= 12
