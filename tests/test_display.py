"""Loss curves as figures: what is drawn, where, and what is refused."""

import sys

import numpy as np
import pytest
from helpers import ALL_EPOCHS, make_table
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scratchnn import LossCurveDisplay, ScratchNNClassifier, fused_fits

pyplot = pytest.importorskip("matplotlib.pyplot")
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
X, y = make_table(60, 3)


@pytest.fixture(autouse=True)
def _closed_figures():
    pyplot.switch_backend("agg")
    yield
    pyplot.close("all")


def network(**changes):
    settings = {"hidden_layer_sizes": (4,), "max_iter": 6, "random_state": 0, "numeric_encoding": None}
    return ScratchNNClassifier(**(settings | ALL_EPOCHS | changes))


def stopping_network(**changes):
    return network(early_stopping=True, learning_rate_init=0.3, **changes)


def get_values(line):
    return np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist()


def get_legend(display):
    return [text.get_text() for text in display.ax_.get_legend().get_texts()]


def test_the_curves_of_a_network_and_its_best_epoch():
    fitted = stopping_network().fit(X, y)
    display = LossCurveDisplay.from_estimator(fitted)
    training, validation = display.lines_
    assert get_values(training) == ([1, 2, 3, 4, 5, 6], fitted.training_loss_curve_)
    assert get_values(validation) == ([1, 2, 3, 4, 5, 6], fitted.validation_loss_curve_)
    best = int(np.argmin(fitted.validation_loss_curve_))
    assert get_values(display.best_epochs_[0]) == ([best + 1], [fitted.validation_loss_curve_[best]])
    assert get_legend(display) == ["training", "validation", f"best epoch ({best + 1})"]
    assert display.score_ax_ is None
    assert display.figure_ is display.ax_.figure
    assert (display.ax_.get_xlabel(), display.ax_.get_ylabel()) == ("Epoch", "Log loss")


def test_without_validation_rows_there_is_one_line_and_no_best_epoch():
    fitted = network(loss="mae", solver="lbfgs").fit(X, y)
    display = LossCurveDisplay.from_estimator(fitted)
    assert [get_values(line)[1] for line in display.lines_] == [fitted.training_loss_curve_]
    assert display.best_epochs_ == []
    assert (display.ax_.get_xlabel(), display.ax_.get_ylabel()) == ("Iteration", "Mean absolute error")


def test_scores_on_a_second_axis_tell_the_best_epoch():
    fitted = stopping_network(scoring="roc_auc").fit(X, y)
    display = LossCurveDisplay.from_estimator(fitted, scores=True)
    assert get_values(display.lines_[2]) == ([1, 2, 3, 4, 5, 6], fitted.validation_scores_)
    assert display.lines_[2].axes is display.score_ax_ is not display.ax_
    assert display.score_ax_.get_ylabel() == "Validation score (roc_auc)"
    best = int(np.argmax(fitted.validation_scores_))
    assert get_values(display.best_epochs_[0]) == ([best + 1], [fitted.validation_loss_curve_[best]])


def test_pipelines_and_searches_show_the_network_in_them():
    pipeline = make_pipeline(StandardScaler(), network())
    search = GridSearchCV(pipeline, {"scratchnnclassifier__alpha": [0.1, 10.0]}, cv=2).fit(X, y)
    line = LossCurveDisplay.from_estimator(search).lines_[0]
    assert get_values(line)[1] == search.best_estimator_[-1].training_loss_curve_


def test_several_networks_have_a_colour_each_and_a_style_for_each_curve():
    estimators = {"wide": stopping_network().fit(X, y), "narrow": network(hidden_layer_sizes=(2,)).fit(X, y)}
    display = LossCurveDisplay.from_estimators(estimators, scores=True)
    wide, wide_validation, wide_score, narrow = display.lines_
    assert get_values(narrow)[1] == estimators["narrow"].training_loss_curve_
    assert wide.get_color() == wide_validation.get_color() == wide_score.get_color() != narrow.get_color()
    assert wide.get_linestyle() == narrow.get_linestyle() != wide_validation.get_linestyle()
    assert get_legend(display) == ["wide", "narrow", "training", "validation", "score", "best epoch"]


def test_the_folds_of_a_cross_validation():
    results = cross_validate(stopping_network(), X, y, cv=3, return_estimator=True)
    display = LossCurveDisplay.from_cv_results(results)
    assert list(display.curves) == ["fold 0", "fold 1", "fold 2"]
    for lines, fitted in zip(zip(*[iter(display.lines_)] * 2, strict=True), results["estimator"], strict=True):
        assert [get_values(line)[1] for line in lines] == [fitted.training_loss_curve_, fitted.validation_loss_curve_]


def test_the_candidates_of_a_search_are_trained_again_the_best_first():
    pipeline = make_pipeline(StandardScaler(), network())
    grid = {"scratchnnclassifier__alpha": [100.0, 0.1], "scratchnnclassifier__activation": ["tanh"]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(X, y)
    ranked = [f"alpha={[100.0, 0.1][number]}" for number in np.argsort(search.cv_results_["rank_test_score"])]
    with fused_fits() as report:
        display = LossCurveDisplay.from_cv_results(search, X, y)
    assert report.n_fits == 2
    assert list(display.curves) == get_legend(display) == ranked
    np.testing.assert_allclose(
        get_values(display.lines_[0])[1], search.best_estimator_[-1].training_loss_curve_, rtol=1e-5
    )
    assert list(LossCurveDisplay.from_cv_results(search, X, y, n_candidates=1).curves) == ranked[:1]


def test_candidates_of_several_grids_are_named_by_what_they_set():
    grids = [{}, {"alpha": [1.0]}, {"tol": [1e-3], "alpha": [2.0]}]
    search = GridSearchCV(network(max_iter=2), grids, cv=2).fit(X, y)
    names = LossCurveDisplay.from_cv_results(search, X, y).curves
    assert sorted(names) == ["alpha=1.0", "alpha=2.0, tol=0.001", "as it is"]


def test_calls_of_partial_fit_are_epochs():
    fitted = network()
    for _ in range(3):
        fitted.partial_fit(X, y, classes=[0, 1])
    assert get_values(LossCurveDisplay.from_estimator(fitted).lines_[0]) == ([1, 2, 3], fitted.training_loss_curve_)
    one = LossCurveDisplay.from_estimator(network().partial_fit(X, y, classes=[0, 1])).lines_[0]
    assert one.get_marker() == "."  # a line of one point cannot be seen


def test_validation_that_began_with_a_later_call_is_drawn_from_there():
    fitted = network(warm_start=True, max_iter=4).fit(X, y).set_params(max_iter=2).fit(X, y, X_val=X, y_val=y)
    training, validation = LossCurveDisplay.from_estimator(fitted).lines_
    assert get_values(training)[0] == [1, 2, 3, 4, 5, 6]
    assert get_values(validation) == ([5, 6], fitted.validation_loss_curve_)
    fitted.fit(X, y, X_val=X, y_val=y)
    assert get_values(LossCurveDisplay.from_estimator(fitted).lines_[1])[0] == [5, 6, 7, 8]


def make_interrupting_loss(n_calls):
    calls = []

    def square(logits, targets):
        calls.append(None)
        if len(calls) > n_calls:
            raise KeyboardInterrupt
        return ((logits - targets) ** 2).sum(-1)

    return square


@pytest.mark.filterwarnings("ignore:Training interrupted by user")
def test_an_interrupted_fit_has_the_curve_of_the_epochs_before():
    fitted = network(loss=make_interrupting_loss(4), batch_size="full").fit(X, y)
    n_epochs = fitted.n_iter_
    assert 1 < n_epochs < 6
    display = LossCurveDisplay.from_estimator(fitted)
    assert get_values(display.lines_[0]) == (list(range(1, n_epochs + 1)), fitted.training_loss_curve_)
    assert display.ax_.get_ylabel() == "Square"
    at_once = network(loss=make_interrupting_loss(0), batch_size="full").fit(X, y)
    with pytest.raises(ValueError, match="must have been trained for at least one epoch to have a curve, got none"):
        LossCurveDisplay.from_estimator(at_once)


@pytest.mark.filterwarnings("ignore:Training diverged")
def test_a_fit_that_diverged_has_no_validation_loss_for_its_last_epoch():
    fitted = stopping_network(standardize=False).fit(X, y)
    fitted.training_loss_curve_ = [*fitted.training_loss_curve_, np.inf]  # what a diverged epoch leaves
    fitted.n_iter_ += 1
    training, validation = LossCurveDisplay.from_estimator(fitted).lines_
    assert get_values(training)[0][-1] == 7
    assert get_values(validation)[0] == [1, 2, 3, 4, 5, 6]


def test_a_wide_range_of_losses_gets_a_logarithmic_axis():
    fitted = network().fit(X, y)
    assert LossCurveDisplay.from_estimator(fitted).ax_.get_yscale() == "linear"
    assert LossCurveDisplay.from_estimator(fitted, yscale="log").ax_.get_yscale() == "log"
    fitted.training_loss_curve_ = [1.0, 0.2, 0.05]
    assert LossCurveDisplay.from_estimator(fitted).ax_.get_yscale() == "log"
    assert LossCurveDisplay.from_estimator(fitted, yscale="linear").ax_.get_yscale() == "linear"
    fitted.training_loss_curve_ = [1.0, 0.2, -0.05]
    assert LossCurveDisplay.from_estimator(fitted).ax_.get_yscale() == "linear"


def test_axes_and_styles_may_be_given_and_plot_draws_again():
    _, axes = pyplot.subplots()
    display = LossCurveDisplay.from_estimator(network().fit(X, y), ax=axes, line_kw={"lw": 3, "color": "black"})
    assert display.ax_ is axes
    assert (display.lines_[0].get_linewidth(), display.lines_[0].get_color()) == (3, "black")
    assert display.plot() is display
    assert display.ax_ is not axes


def test_many_networks_have_colours_of_their_own():
    fitted = network().fit(X, y)
    display = LossCurveDisplay.from_estimators({f"{number}": fitted for number in range(12)})
    assert len({line.get_color() for line in display.lines_}) == 12


def test_errors_say_what_to_do():
    fitted = network().fit(X, y)
    draw = LossCurveDisplay.from_estimator
    for unfitted in (network(), make_pipeline(StandardScaler(), network())):
        with pytest.raises(ValueError, match="is not fitted yet"):
            draw(unfitted)
    with pytest.raises(ValueError, match=r"no single fitted network to draw.*refit=True"):
        draw(GridSearchCV(network(), {"alpha": [1.0]}))
    for other in (LogisticRegression(), MLPClassifier()):
        with pytest.raises(TypeError, match="must be a ScratchNNClassifier, or a pipeline or search"):
            draw(other)
    with pytest.raises(ValueError, match=r"yscale must be one of \['auto', 'linear', 'log'\], got 'loud'"):
        draw(fitted, yscale="loud")
    with pytest.raises(ValueError, match="scores must be False for networks without validation scores"):
        draw(fitted, scores=True)
    with pytest.raises(ValueError, match="at least one network"):
        LossCurveDisplay.from_estimators({})
    with pytest.raises(ValueError, match="return_estimator=True, or a fitted search, got the keys"):
        LossCurveDisplay.from_cv_results(cross_validate(network(), X, y, cv=2))
    search = GridSearchCV(network(), {"alpha": [1.0]}, cv=2).fit(X, y)
    with pytest.raises(ValueError, match="X and y must be given to draw the candidates of a search"):
        LossCurveDisplay.from_cv_results(search)


def test_without_matplotlib_the_message_says_what_to_install(monkeypatch):
    fitted = network().fit(X, y)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"needs matplotlib\. Install it: pip install matplotlib"):
        LossCurveDisplay.from_estimator(fitted)
