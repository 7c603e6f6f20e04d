"""Which calls a worker gets together, and the arrays that several portions have."""

import functools
import pickle
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from fusion_helpers import X, make_call, network, search, y
from helpers import within
from sklearn.utils import Bunch

from scratchnn import fused_fits
from scratchnn.fusion.portions import LEAST_PORTION, MOST_PORTION, cut_portions, plan_sizes
from scratchnn.fusion.shipping import SharedArrays, put_back_arrays, take_out_arrays


def make_calls(n_candidates, n_folds):
    folds = [np.arange(k + 2) for k in range(n_folds)]
    return [
        SimpleNamespace(items=[(pow, (X, folds[fold]), {"C": 1.0})])
        for _ in range(n_candidates)
        for fold in range(n_folds)
    ]


def cut(n_candidates, n_folds, n_workers):
    """Return the folds of the calls of each portion."""
    calls = make_calls(n_candidates, n_folds)
    portions = cut_portions(calls, n_workers)
    assert sorted(k for portion in portions for k in portion) == list(range(len(calls)))
    return [[k % n_folds for k in portion] for portion in portions]


def test_few_portions_are_whole_groups_or_equal_parts_of_them():
    assert cut(3, 2, 2) == [[0] * 3, [1] * 3]
    assert cut(2, 6, 3) == [[0, 0, 1, 1], [2, 2, 3, 3], [4, 4, 5, 5]]
    assert cut(4, 3, 2) == [[0, 1, 2] * 2] * 2
    assert cut(1, 5, 2) == [[0, 1], [2, 3, 4]]
    assert cut(1, 2, 8) == [[0], [1]]


def test_many_portions_have_few_groups():
    assert cut(4, 2, 4) == [[0, 0], [0, 0], [1, 1], [1, 1]]
    assert max(len(set(portion)) for portion in cut(200, 5, 8)) == 2


@pytest.mark.parametrize("n_workers", [1, 2, 3, 16, 256])
@pytest.mark.parametrize("n_calls", [0, 1, 5, 64, 100, 1000, 5000, 50_000])
def test_each_round_has_a_portion_for_each_worker_and_leaves_half(n_calls, n_workers):
    sizes = plan_sizes(n_calls, n_workers)
    assert sum(sizes) == n_calls
    assert all(size > 0 for size in sizes)
    rounds = [sizes[k : k + n_workers] for k in range(0, len(sizes), n_workers)]
    assert all(max(each) - min(each) <= 1 for each in rounds)  # workers of one speed end each round together
    n_left = n_calls
    for each in rounds[:-1]:
        assert len(each) == n_workers
        assert LEAST_PORTION <= max(each) <= MOST_PORTION
        assert sum(each) <= n_left / 2 + 1
        n_left -= sum(each)
    assert n_left < 2 * LEAST_PORTION * n_workers


def test_sizes_of_portions():
    assert plan_sizes(127 * 2, 2) == [127, 127]  # a second portion would make small stacks
    assert plan_sizes(128 * 2, 2) == [64] * 4
    assert plan_sizes(1000, 2) == [250, 250, 125, 125, 125, 125]
    assert plan_sizes(2000, 2) == [256] * 4 + [244, 244, 122, 122, 122, 122]


def test_arrays_of_several_portions_are_taken_out_and_put_back():
    frame, weights, own, plain = pd.DataFrame(X), np.ones(len(X)), np.zeros(3), {"a": 1}
    make = functools.partial(make_call, X, frame, options=plain)
    calls = [make(own, params=Bunch(sample_weight=weights, k=k)) for k in range(3)]
    portions, arrays = take_out_arrays([calls[:1], calls[1:]])
    assert [any(array is each for each in arrays) for array in (X, frame, weights, own)] == [True, True, True, True]
    portions, arrays = take_out_arrays([calls, [make(y)]])
    assert list(map(id, arrays)) == [id(X), id(frame)]
    _, args, kwargs = portions[0][2].items[0]
    assert args[2] is own
    assert kwargs["params"] is calls[2].items[0][2]["params"]
    assert kwargs["options"] is plain
    copies = [X.copy(), frame.copy()]
    ((_, args, kwargs),) = put_back_arrays(portions[0], copies)[2].items
    assert [args[0] is copies[0], args[1] is copies[1], args[2] is own] == [True] * 3
    assert calls[0].items[0][1][0] is X  # the caller's calls stay as they were


def test_arrays_in_dictionaries_are_put_back_in_copies():
    weights = np.ones(len(X))
    params = Bunch(sample_weight=weights, k=0)
    calls = [make_call(params), make_call(params=params)]
    portions, arrays = take_out_arrays([calls[:1], calls[1:]])
    assert [array is weights for array in arrays] == [True]
    other = weights.copy()
    (restored,) = put_back_arrays(portions[1], [other])
    assert type(restored.items[0][2]["params"]) is Bunch
    assert restored.items[0][2]["params"].sample_weight is other
    assert params.sample_weight is weights


@within(60)
def test_a_portion_grows_with_its_own_calls_only(monkeypatch):
    """The tasks of scikit-learn 1.9 refer to all tasks of their search."""
    take_out = SharedArrays.take_out
    n_bytes = []

    class Sent(Exception):
        pass

    def note(shared, portions, backend):
        sent, _ = take_out(shared, portions, backend)
        n_bytes.append([len(pickle.dumps(calls)) for calls in sent])
        raise Sent

    monkeypatch.setattr(SharedArrays, "take_out", note)
    for n_candidates in (100, 200):
        with pytest.raises(Sent), fused_fits(backend="loky", n_jobs=n_candidates * 3 // 100):
            search(network(), {"alpha": [1.0] * n_candidates}).fit(X, y)
    assert [len(each) for each in n_bytes] == [3, 6]  # portions of 100 calls
    assert max(n_bytes[1]) < 1.1 * max(n_bytes[0])
