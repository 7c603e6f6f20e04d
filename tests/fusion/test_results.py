"""`fused_fits` gives the same results as without it."""

import joblib
import numpy as np
import pytest
from fusion_helpers import check_same, fit, folds, network, run, search, squared_logits
from sklearn.base import clone
from sklearn.model_selection import KFold, cross_validate
from small_problems import X, sample_weight, y
from uses import USES

from scratchnn import fused_fits


@pytest.mark.parametrize("use", USES)
def test_same_results_as_without_fusion(use):
    check_same(USES[use])


GRIDS = {
    "widths": {"hidden_layer_sizes": [(), 5, (3, 4), 5]},
    "solvers": {"solver": ["adam", "sgd", "lbfgs"]},
    "rates": {"learning_rate_init": [0.001, 0.01, 0.1], "max_iter": [3, 5, 8]},
    "rates of sgd": {"learning_rate_init": [0.001, 0.1], "learning_rate": ["constant", "invscaling", "adaptive"]},
    "momentum of sgd": {"momentum": [0.0, 0.5, 0.9], "nesterovs_momentum": [False, True]},
    "decays of adam": {"beta_1": [0.5, 0.9], "beta_2": [0.9, 0.999], "epsilon": [1e-8, 1e-3]},
    "patience": {"tol": [0, 1e-3, 1e-2, 1e-1], "n_iter_no_change": [1, 2]},
    "adaptive patience of sgd": {"learning_rate": ["adaptive"], "tol": [1e-3, 1e-1, 1], "n_iter_no_change": [1, 2]},
    "minibatches": {"batch_size": [9, 20, "full"], "shuffle": [False, True]},
    "activations": {"activation": ["gaussian", "leaky_relu", "gelu", "silu"], "hidden_layer_sizes": [(4, 3)]},
    "dropout": {"dropout": [0.0, 0.2, 0.5], "hidden_layer_sizes": [(6,), (6, 4)], "random_state": [0, 1]},
    "schedules": {"learning_rate": ["cosine", "one_cycle", "constant"], "solver": ["adam", "sgd"], "max_iter": [4, 7]},
    "class weights": {"class_weight": [None, "balanced", {0: 2.0}, {0: 0.5, 1: 3.0}]},
    "loss of one's own": {"loss": [squared_logits, "log_loss"], "solver": ["adam", "lbfgs"]},
    "losses": {"loss": ["log_loss", "mae", "brier"], "activation": ["relu", "tanh"]},
    "starts": {"random_state": [0, 1, 2], "init": ["glorot_uniform", "scratch"], "hidden_bias": [False, True]},
    "early stopping": {
        "validation_fraction": [0.1, 0.3],
        "scoring": ["loss", "accuracy", "roc_auc_ovr"],
        "n_iter_no_change": [1, np.inf],
    },
    "early stopping or not": {"early_stopping": [True, False], "alpha": [0.1, 1.0]},
    "precisions": {"dtype": ["float64", "float32", "auto"]},
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("grid", GRIDS)
def test_any_grid_gives_the_same(grid):
    estimator = network(batch_size=9, solver="sgd" if "sgd" in grid else "adam")
    if "patience" in grid or "early" in grid:
        estimator.set_params(max_iter=20 if "sgd" in grid else 8, early_stopping="early" in grid)
    check_same(lambda: search(estimator, GRIDS[grid], scoring="neg_log_loss").fit(X, y))


@pytest.mark.filterwarnings("ignore:batch_size=99 is larger")
@pytest.mark.parametrize("batch_size", [13, 20, 98, 99, "full"])
@pytest.mark.parametrize("weights", [None, sample_weight[:118]])
def test_folds_that_differ_by_a_row_train_together(batch_size, weights):
    estimator = network(batch_size=batch_size, early_stopping=batch_size == 20)
    model = search(estimator, cv=KFold(6), scoring="neg_log_loss", refit=False)
    report = check_same(lambda: clone(model).fit(X[:118], y[:118], sample_weight=weights))
    assert max(stack.n_models for stack in report.stacks) >= 8


@pytest.mark.parametrize("pre_dispatch", [1, "all"])
def test_pre_dispatch_and_batches_change_nothing(pre_dispatch):
    check_same(lambda: search(pre_dispatch=pre_dispatch).fit(X, y))
    check_same(lambda: run(fit, 8, batch_size=3, pre_dispatch=pre_dispatch))


def test_unseeded_fits_differ():
    with fused_fits() as report:
        fits = cross_validate(network(random_state=None), X, y, cv=folds, return_estimator=True)["estimator"]
        more = joblib.Parallel()(joblib.delayed(network(random_state=None).fit)(X, y) for _ in range(3))
    assert report.n_fits == 6
    assert [stack.n_models for stack in report.stacks] == [3, 3]
    assert len({fit.loss_ for fit in [*fits, *more]}) == 6
