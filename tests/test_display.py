"""Loss curves as figures: what is drawn, where, and what is refused."""

import sys

import numpy as np
import pytest
from helpers import ALL_EPOCHS, make_table
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import FixedThresholdClassifier, GridSearchCV
from sklearn.pipeline import make_pipeline

from scratchnn import LossCurveDisplay, ScratchNNClassifier

pyplot = pytest.importorskip("matplotlib.pyplot")
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
X, y = make_table(60, 3)
draw = LossCurveDisplay.from_estimator


@pytest.fixture(autouse=True)
def _closed_figures():
    pyplot.switch_backend("agg")
    yield
    pyplot.close("all")


def network(**changes):
    return ScratchNNClassifier(
        **({"hidden_layer_sizes": (4,), "max_iter": 6, "random_state": 0} | ALL_EPOCHS | changes)
    )


def fit_validated(**changes):
    return network(early_stopping=True, learning_rate_init=0.3, **changes).fit(X, y)


def get_points(line):
    """Return the epochs and the values of the points of a line that can be seen."""
    epochs, values = line.get_data()
    return epochs[np.isfinite(values)].tolist(), values[np.isfinite(values)].tolist()


def get_legend(display):
    return [text.get_text() for text in display.legend_.get_texts()]


def get_labels(display):
    return display.ax_.get_xlabel(), display.ax_.get_ylabel()


def test_both_losses_of_each_epoch_and_the_best_epoch():
    fitted = fit_validated()
    display = draw(fitted)
    training, validation = display.lines_
    assert get_points(training) == ([1, 2, 3, 4, 5, 6], fitted.training_loss_curve_)
    assert get_points(validation) == ([1, 2, 3, 4, 5, 6], fitted.validation_loss_curve_)
    best = int(np.argmin(fitted.validation_loss_curve_))
    assert get_points(display.best_epochs_[0]) == ([best + 1], [fitted.validation_loss_curve_[best]])
    assert get_legend(display) == ["training", "validation", f"best epoch ({best + 1})"]
    assert get_labels(display) == ("Epoch", "Log loss")
    assert display.score_ax_ is None


def test_scores_on_a_second_axis_tell_the_best_epoch():
    fitted = fit_validated(scoring="roc_auc")
    display = draw(fitted, scores=True)
    assert get_points(display.lines_[2]) == ([1, 2, 3, 4, 5, 6], fitted.validation_scores_)
    assert display.lines_[2].axes is display.score_ax_ is not display.ax_
    assert display.score_ax_.get_ylabel() == "Validation score (roc_auc)"
    best = int(np.argmax(fitted.validation_scores_))
    assert get_points(display.best_epochs_[0]) == ([best + 1], [fitted.validation_loss_curve_[best]])


def test_axes_have_the_names_of_the_losses_and_lbfgs_has_iterations():
    def square(logits, targets):
        return ((logits - targets) ** 2).sum(-1)

    fitted = network(loss="mae", solver="lbfgs").fit(X, y)
    display = draw(fitted)
    assert get_labels(display) == ("Iteration", "Mean absolute error")
    assert get_legend(display) == ["training"]
    several = draw([fitted, network(loss=square).fit(X, y)])
    assert get_labels(several) == ("Iteration or epoch", "Mean absolute error or square")


def test_pipelines_searches_and_meta_estimators_show_the_network_in_them():
    pipeline = make_pipeline("passthrough", network())
    search = GridSearchCV(pipeline, {"scratchnnclassifier__alpha": [0.1, 10.0]}, cv=2).fit(X, y)
    assert get_points(draw(search).lines_[0])[1] == search.best_estimator_[-1].training_loss_curve_
    thresholded = FixedThresholdClassifier(pipeline).fit(X, y)
    assert get_points(draw(thresholded).lines_[0])[1] == thresholded.estimator_[-1].training_loss_curve_


def test_several_networks_have_a_color_each_and_a_style_for_each_curve():
    networks = {"wide": fit_validated(), "narrow": network(scoring="roc_auc").fit(X, y)}
    display = draw(networks, scores=True)
    wide, wide_validation, wide_score, narrow = display.lines_
    assert get_points(narrow)[1] == networks["narrow"].training_loss_curve_
    assert wide.get_color() == wide_validation.get_color() == wide_score.get_color() != narrow.get_color()
    assert len({line.get_linestyle() for line in (wide, wide_validation, wide_score)}) == 3
    assert display.score_ax_.get_ylabel() == "Validation score (negative loss)"
    assert get_legend(display) == ["wide", "narrow", "training", "validation", "validation score", "best epoch"]
    assert [line.get_color() for line in display.legend_.get_lines()[:2]] == [wide.get_color(), narrow.get_color()]
    assert get_legend(draw([networks["narrow"]] * 2)) == ["network 0", "network 1"]


def test_calls_of_partial_fit_are_epochs():
    fitted = network()
    lines = [draw(fitted.partial_fit(X, y, classes=[0, 1])).lines_[0] for _ in range(2)]
    assert get_points(lines[1]) == ([1, 2], fitted.training_loss_curve_)
    assert [line.get_marker() for line in lines] == [".", ""]  # one point makes no line


def test_validation_begins_with_the_call_that_had_a_validation_set():
    fitted = network(warm_start=True, max_iter=4).fit(X, y).set_params(max_iter=2).fit(X, y, X_val=X, y_val=y)
    display = draw(fitted)
    assert get_points(display.lines_[0])[0] == [1, 2, 3, 4, 5, 6]
    assert get_points(display.lines_[1]) == ([5, 6], fitted.validation_loss_curve_)
    best = int(np.argmin(fitted.validation_loss_curve_))
    assert get_points(display.best_epochs_[0]) == ([5 + best], [fitted.validation_loss_curve_[best]])
    assert get_points(draw(fitted.fit(X, y, X_val=X, y_val=y)).lines_[1])[0] == [5, 6, 7, 8]


def test_an_epoch_that_diverged_has_no_validation_loss():
    fitted = fit_validated()
    fitted.training_loss_curve_ = [*fitted.training_loss_curve_, np.inf]  # what a diverged epoch leaves
    fitted.n_iter_ += 1
    assert get_points(draw(fitted).lines_[1])[0] == [1, 2, 3, 4, 5, 6]


def test_axes_and_keywords_are_passed_on_and_plot_draws_again():
    _, axes = pyplot.subplots()
    display = draw(fit_validated(), ax=axes, scores=True, curve_kwargs={"lw": 3, "color": "black"})
    assert display.ax_ is axes
    assert display.legend_.axes is display.score_ax_
    assert [(line.get_linewidth(), line.get_color()) for line in display.lines_] == [(3, "black")] * 3
    assert display.plot() is display
    assert display.figure_ is display.ax_.figure is not axes.figure
    assert display.legend_ in display.figure_.legends


@pytest.mark.filterwarnings("ignore:Training interrupted by user")
def test_errors_say_what_to_do():
    def interrupt(logits, targets):
        raise KeyboardInterrupt

    fitted, interrupted = network().fit(X, y), network(loss=interrupt).fit(X, y)
    for untrained in (network(), make_pipeline(network()), interrupted):
        with pytest.raises(
            NotFittedError, match=r"estimator must be fitted for .* one epoch, got a ScratchNN.*Call fit"
        ):
            draw(untrained)
    with pytest.raises(NotFittedError, match=r"estimator\['a'\] must be .*\(with refit=True\).*, got GridSearchCV"):
        draw({"a": GridSearchCV(network(), {})})
    with pytest.raises(TypeError, match=r"estimator\['network 1'\] must be .*, got LogisticRegression\. Pass several"):
        draw([fitted, LogisticRegression()])
    with pytest.raises(ValueError, match=r"scores must be False for .*, got True\. Fit with early_stopping=True, or"):
        draw(fitted, scores=True)
    with pytest.raises(ValueError, match="estimator must contain at least one fitted network, got none"):
        draw({})


def test_without_matplotlib_the_message_says_what_to_install(monkeypatch):
    fitted = network().fit(X, y)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"needs Matplotlib\. Install it: pip install matplotlib"):
        draw(fitted)
