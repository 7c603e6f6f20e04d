"""Queued runs are kept once, take a known amount of memory, and train in parts where they must."""

import sys
import weakref

import joblib
import numpy as np
import pytest
from fusion_helpers import allocate_too_much, check_same_after, network, raise_memory_error, search
from helpers import make_table, run_python, spoil
from sklearn.ensemble import BaggingClassifier
from sklearn.exceptions import FitFailedWarning
from sklearn.model_selection import cross_val_score
from small_problems import sample_weight

from scratchnn import ScratchNNClassifier, fused_fits
from scratchnn.fusion import memory_limit, pool
from scratchnn.training import make_stacks, train

X, y = make_table(60, 4, 2)


def score(model=None, **settings):
    model = network() if model is None else model
    fitted = search(model, scoring="neg_log_loss", refit=False, **settings).fit(X, y)
    return fitted.cv_results_["mean_test_score"]


def score_nested():
    return cross_val_score(search(scoring="neg_log_loss"), X, y, cv=2)


def score_bagging():
    return BaggingClassifier(network(), n_estimators=6, random_state=0).fit(X, y).predict_proba(X)


SEARCHES = [score, score_nested, score_bagging]


@pytest.mark.parametrize("use", SEARCHES)
def test_little_memory_trains_what_is_queued(use, monkeypatch):
    report = check_same_after(monkeypatch.setattr, use, pool, "count_free_memory", lambda: 100_000)
    assert len(report.stacks) > 2
    assert max(stack.n_models for stack in report.stacks) > 1


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
        datas = [
            (X, y, weights),
            (others[0], y, weights),
            (X, others[1], weights),
            (X, y, others[2]),
            (X, y, 2 * sample_weight[:60]),
        ]
        joblib.Parallel()(joblib.delayed(network(standardize=False).fit)(*data) for data in [*datas, datas[0]])
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


@pytest.fixture
def train_if(monkeypatch):
    """Let training raise an error where a function of the runs says so."""

    def patch(fits, raise_error=raise_memory_error):
        def train_within_limit(runs):
            if not fits(runs):
                spoil(runs)
                raise_error()
            train(runs)

        monkeypatch.setattr(pool, "train", train_within_limit)

    return patch


@pytest.mark.parametrize("most", [1, 5])
@pytest.mark.parametrize("use", SEARCHES)
def test_a_stack_for_which_memory_does_not_suffice_trains_in_parts(use, most, train_if):
    report = check_same_after(train_if, use, lambda runs: len(runs) <= most)
    assert max(stack.n_models for stack in report.stacks) == min(most, 3)


@pytest.mark.filterwarnings("ignore:One or more of the test scores")
@pytest.mark.parametrize("raise_error", [raise_memory_error, allocate_too_much])
def test_a_fit_for_which_memory_never_suffices_fails_alone(raise_error, train_if):
    expected = score()
    train_if(lambda runs: all(run.hyperparameters.alpha != 1.0 for run in runs), raise_error)
    with fused_fits(), pytest.warns(FitFailedWarning, match="3 fits failed"):
        scores = score()
    np.testing.assert_allclose(scores, np.where([False, False, True, False], np.nan, expected), rtol=1e-6)


GROUP = {"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "max\n"}
USED = {
    "sys/fs/cgroup/a/memory.current": "3000\n",
    "sys/fs/cgroup/a/memory.stat": "anon 7\nactive_file 600\ninactive_file 400\n",
}
LIMITS = {
    "the machine": ({"proc/meminfo": "MemTotal: 2048 kB\nMemAvailable:   1024 kB\n"}, 1024 * 1024),
    "a group around": (GROUP | USED | {"sys/fs/cgroup/a/memory.max": "5000\n"}, 3000),
    "the limit that slows down": (GROUP | {"sys/fs/cgroup/a/b/memory.high": "800\n"}, 800),
    "a container": ({"proc/self/cgroup": "0::/../../x\n", "sys/fs/cgroup/memory.max": "777"}, 777),
    "all used": (GROUP | USED | {"sys/fs/cgroup/a/memory.max": "1000\n"}, 0),
    "nothing": ({}, memory_limit.UNKNOWN),
}


@pytest.mark.parametrize("case", LIMITS)
def test_the_least_that_any_limit_leaves_counts(case, tmp_path, monkeypatch):
    monkeypatch.setattr(memory_limit, "resource", None)
    files, expected = LIMITS[case]
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    assert memory_limit.count_free_memory(str(tmp_path)) == expected


@pytest.mark.parametrize(("name", "n_pages"), [("RLIMIT_AS", 100), ("RLIMIT_DATA", 20)])
def test_limits_of_the_process_count_less_what_it_has(name, n_pages, tmp_path, monkeypatch):
    resource = pytest.importorskip("resource")
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/statm").write_text("100 50 30 5 0 20 0\n")
    limits = {getattr(resource, name): 900_000}
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (limits.get(kind, resource.RLIM_INFINITY), 0))
    assert memory_limit.count_free_memory(str(tmp_path)) == 900_000 - n_pages * resource.getpagesize()


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
