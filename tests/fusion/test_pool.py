"""Queued runs are kept once, take a known amount of memory, and train in parts where they must."""

import sys
import weakref
from functools import partial
from types import SimpleNamespace

import joblib
import numpy as np
import pytest
import torch
from fusion_helpers import network, search
from helpers import make_table, run_python, spoil
from sklearn.ensemble import BaggingClassifier
from sklearn.exceptions import FitFailedWarning
from sklearn.model_selection import cross_val_score
from small_problems import sample_weight

from scratchnn import ScratchNNClassifier, fused_fits
from scratchnn.fusion import memory_limit, pool
from scratchnn.training import make_stacks, train

X, y = make_table(60, 4, 2)


def score():
    return search(scoring="neg_log_loss", refit=False).fit(X, y).cv_results_["mean_test_score"]


def score_nested():
    return cross_val_score(search(scoring="neg_log_loss"), X, y, cv=2)


def score_bagging():
    return BaggingClassifier(network(), n_estimators=6, random_state=0).fit(X, y).predict_proba(X)


@pytest.mark.parametrize("weights", [None, sample_weight[:60]])
def test_data_are_kept_once_where_every_number_is_equal(monkeypatch, weights):
    runs = []
    monkeypatch.setattr(pool, "make_stacks", lambda given: runs.extend(given) or make_stacks(given))
    with fused_fits():
        search(network(early_stopping=True), refit=False).fit(X, y, sample_weight=weights)
        assert len({id(run.data) for run in runs}) == len({id(run.validation) for run in runs}) == 3
        del runs[:]
        others = [X.copy(), y.copy(), sample_weight[:60].copy()]
        others[0][7, 2], others[1][7], others[2][7] = 0.5, 1 - y[7], 2.0
        datas = [(X, y, weights), (others[0], y, weights), (X, others[1], weights), (X, y, others[2])]
        datas += [(X, y, 2 * sample_weight[:60]), datas[0]]
        joblib.Parallel()(joblib.delayed(network(standardize=False).fit)(*data) for data in datas)
        assert len({id(run.data) for run in runs}) == 5


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("settings", [{"solver": "lbfgs"}, {"hidden_layer_sizes": (20_000,)}])
def test_models_that_no_one_needs_are_not_kept(settings):
    class Counted(ScratchNNClassifier):
        def fit(self, X, y):
            fitted.append(weakref.ref(self))
            counts.append(sum(each() is not None for each in fitted))
            return super().fit(X, y)

    fitted, counts = [], []
    with fused_fits():
        cross_val_score(Counted(**{"hidden_layer_sizes": (2,), "max_iter": 2, **settings}), X, y, cv=20)
    assert len(counts) == 20
    assert max(counts) <= 2


EXHAUST = [partial(np.empty, 2**58), partial(torch.empty, 2**58)]


def train_where(fits, exhaust=EXHAUST[0]):
    """Return a function that trains runs, or runs out of memory in the middle if a function of the runs says so."""

    def train_or_fail(runs):
        if not fits(runs):
            spoil(runs)
            exhaust()
        train(runs)

    return train_or_fail


LITTLE = {  # what is replaced, by what, the models of the largest stack, and the number of stacks at least
    "for the queue": ("count_free_memory", lambda: 100_000, range(2, 10), 3),
    "for a stack": ("train", train_where(lambda runs: len(runs) <= 5), [3], 2),
    "for two models": ("train", train_where(lambda runs: len(runs) == 1), [1], 6),
}


@pytest.mark.parametrize("use", [score, score_nested, score_bagging])
@pytest.mark.parametrize("memory", LITTLE)
def test_little_memory_makes_smaller_stacks(use, memory, monkeypatch):
    name, function, largest, n_stacks = LITTLE[memory]
    expected = use()
    monkeypatch.setattr(pool, name, function)
    with fused_fits() as report:
        np.testing.assert_allclose(use(), expected, rtol=1e-6)
    assert len(report.stacks) >= n_stacks
    assert max(stack.n_models for stack in report.stacks) in largest


@pytest.mark.filterwarnings("ignore:One or more of the test scores")
@pytest.mark.parametrize("exhaust", EXHAUST)
def test_a_fit_for_which_memory_never_suffices_fails_alone(exhaust, monkeypatch):
    expected = score()
    train_others = train_where(lambda runs: all(run.hyperparameters.alpha != 1.0 for run in runs), exhaust)
    monkeypatch.setattr(pool, "train", train_others)
    with fused_fits(), pytest.warns(FitFailedWarning, match="3 fits failed"):
        scores = score()
    np.testing.assert_allclose(scores, np.where([False, False, True, False], np.nan, expected), rtol=1e-6)


GROUP = {"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "max\n"}
USED = {
    "sys/fs/cgroup/a/memory.current": "3000\n",
    "sys/fs/cgroup/a/memory.stat": "anon 7\nactive_file 600\ninactive_file 400\n",
}
PAGES = {"proc/self/statm": "100 50 30 5 0 20 0\n"}
LIMITS = {  # files, the number of bytes, and the limited resource
    "the machine": ({"proc/meminfo": "MemTotal: 2048 kB\nMemAvailable:   1024 kB\n"}, 1024 * 1024),
    "a group around": (GROUP | USED | {"sys/fs/cgroup/a/memory.max": "5000\n"}, 3000),
    "the limit that slows down": (GROUP | {"sys/fs/cgroup/a/b/memory.high": "800\n"}, 800),
    "a container": ({"proc/self/cgroup": "0::/../../x\n", "sys/fs/cgroup/memory.max": "777"}, 777),
    "all used": (GROUP | USED | {"sys/fs/cgroup/a/memory.max": "1000\n"}, 0),
    "the address space": (PAGES, 900_000 - 100 * 4096, "RLIMIT_AS"),
    "the data of the process": (PAGES, 900_000 - 20 * 4096, "RLIMIT_DATA"),
    "nothing": ({}, memory_limit.UNKNOWN),
}


@pytest.mark.parametrize("case", LIMITS)
def test_the_least_that_any_limit_leaves_counts(case, tmp_path, monkeypatch):
    files, expected, *limited = LIMITS[case]
    resource = SimpleNamespace(RLIMIT_AS="RLIMIT_AS", RLIMIT_DATA="RLIMIT_DATA", RLIM_INFINITY=-1)
    resource.getpagesize, resource.getrlimit = lambda: 4096, lambda name: (900_000 if name in limited else -1, 0)
    monkeypatch.setattr(memory_limit, "resource", resource if limited else None)
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    assert memory_limit.count_free_memory(str(tmp_path)) == expected


UNDER_A_LIMIT = """
import resource, warnings
import numpy as np, torch
from sklearn.ensemble import BaggingClassifier
from scratchnn import ScratchNNClassifier, fused_fits

warnings.simplefilter("ignore")
torch.set_num_threads(1)
X = np.random.default_rng(0).normal(size=(2000, 500))
y = (X[:, 0] > 0).astype(int)
network = ScratchNNClassifier((2,), max_iter=1, random_state=0)
network.fit(X[:50], y[:50])
for megabytes, n_estimators in [(150, 12), (1500, 60)]:  # the samples of 12 networks, in both precisions, are 140
    bagging = BaggingClassifier(network, n_estimators=n_estimators, random_state=0)
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + megabytes * 2**20, resource.RLIM_INFINITY))
    plain = bagging.fit(X, y).predict_proba(X[:200])
    with fused_fits() as report:
        fused = bagging.fit(X, y).predict_proba(X[:200])
    print(np.abs(fused - plain).max() < 1e-6, report.n_fits)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of address space")
def test_bagging_under_a_limit_of_memory_gives_what_it_gives_in_sequence():
    assert run_python(UNDER_A_LIMIT).split() == ["True", "12", "True", "60"]
