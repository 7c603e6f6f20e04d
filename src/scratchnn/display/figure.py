"""Loss curves as a figure, by the conventions of scikit-learn's displays."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from .curves import LossCurves, find_cv_estimators, find_network, read_curves

SCALES = ("auto", "linear", "log")
LOG_RATIO = 10  # of the largest loss to the smallest: from there on, "auto" is a logarithmic axis
N_COLOURS = 10  # of matplotlib's colour cycle
STYLES = {"training": "--", "validation": "-", "score": ":"}  # of the lines, where colours tell networks apart


class LossCurveDisplay:
    """Loss of each epoch on the training data and on the validation data.

    Create it with `from_estimator`, `from_estimators` or `from_cv_results`. All parameters are stored as attributes.

    Parameters
    ----------
    curves : dict of str to LossCurves
        The curves of each network, by its name.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the losses.
    score_ax_ : matplotlib Axes or None
        Axes with the scores. None if no scores are drawn.
    figure_ : matplotlib Figure
        Figure of the axes.
    lines_ : list of matplotlib Line2D
        The curves: for each network its training loss, its validation loss and its score, as far as they are drawn.
    best_epochs_ : list of matplotlib Line2D
        Points that mark the epochs with the best validation score, one for each network with a validation set. With
        ``early_stopping``, the network has the coefficients of this epoch, and otherwise those of the last epoch.

    See Also
    --------
    ScratchNNClassifier : Its ``training_loss_curve_``, ``validation_loss_curve_`` and ``validation_scores_`` are drawn.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from scratchnn import LossCurveDisplay, ScratchNNClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> classifier = ScratchNNClassifier((5,), early_stopping=True, random_state=0).fit(X, y)
    >>> display = LossCurveDisplay.from_estimator(classifier)
    >>> [line.get_label() for line in display.lines_]
    ['training', 'validation']
    """

    def __init__(self, curves: Mapping[str, LossCurves]) -> None:
        self.curves = curves

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        name: str | None = None,
        ax: Any = None,
        scores: bool = False,
        yscale: str = "auto",
        line_kw: dict[str, Any] | None = None,
    ) -> "LossCurveDisplay":
        """Draw the curves of a fitted network.

        Parameters
        ----------
        estimator : estimator
            A fitted `ScratchNNClassifier`, or a pipeline that ends in one, or a search over either, whose
            ``best_estimator_`` is drawn.
        name : str, default=None
            Name of the network. None is the name of its class.
        ax : matplotlib Axes, default=None
            Axes to draw on. None makes a new figure.
        scores : bool, default=False
            Whether to draw the validation scores too, on a second axis.
        yscale : {'auto', 'linear', 'log'}, default='auto'
            Scale of the losses. 'auto' is 'log' if all are positive, and the largest is more than ten times the
            smallest.
        line_kw : dict, default=None
            Arguments of matplotlib's ``plot`` for all curves.

        Returns
        -------
        LossCurveDisplay

        Raises
        ------
        NotFittedError
            If the network is not fitted.
        TypeError
            If the estimator contains no network.
        ValueError
            If there is no curve, or a parameter is not as described.
        ImportError
            If matplotlib is not installed.
        """
        name = type(find_network(estimator)).__name__ if name is None else name
        return cls.from_estimators({name: estimator}, ax=ax, scores=scores, yscale=yscale, line_kw=line_kw)

    @classmethod
    def from_estimators(
        cls,
        estimators: Mapping[str, Any],
        *,
        ax: Any = None,
        scores: bool = False,
        yscale: str = "auto",
        line_kw: dict[str, Any] | None = None,
    ) -> "LossCurveDisplay":
        """Draw the curves of several fitted networks.

        Parameters
        ----------
        estimators : dict of str to estimator
            Estimators as for `from_estimator`, by name.
        ax : matplotlib Axes, default=None
            Axes to draw on. None makes a new figure.
        scores : bool, default=False
            Whether to draw the validation scores too, on a second axis.
        yscale : {'auto', 'linear', 'log'}, default='auto'
            Scale of the losses. See `from_estimator`.
        line_kw : dict, default=None
            Arguments of matplotlib's ``plot`` for all curves.

        Returns
        -------
        LossCurveDisplay

        Raises
        ------
        NotFittedError, TypeError, ValueError, ImportError
            See `from_estimator`.
        """
        display = cls({name: read_curves(estimator) for name, estimator in estimators.items()})
        return display.plot(ax, scores=scores, yscale=yscale, line_kw=line_kw)

    @classmethod
    def from_cv_results(
        cls,
        cv_results: Any,
        X: Any = None,
        y: Any = None,
        *,
        n_candidates: int = 10,
        ax: Any = None,
        scores: bool = False,
        yscale: str = "auto",
        line_kw: dict[str, Any] | None = None,
    ) -> "LossCurveDisplay":
        """Draw the curves of the folds of a cross-validation, or of the candidates of a search.

        Parameters
        ----------
        cv_results : dict or search
            What ``cross_validate`` returns with ``return_estimator=True``: the networks of its folds are drawn. Or a
            fitted search, such as GridSearchCV. It keeps no network except the best one, so its candidates are trained
            again, on all rows of X, as many at a time as ``n_jobs`` of the search says. Inside `fused_fits` they train
            together.
        X, y : array-like, default=None
            Rows and targets to train the candidates of a search on.
        n_candidates : int, default=10
            Number of candidates of a search to draw: those with the best mean score.
        ax : matplotlib Axes, default=None
            Axes to draw on. None makes a new figure.
        scores : bool, default=False
            Whether to draw the validation scores too, on a second axis.
        yscale : {'auto', 'linear', 'log'}, default='auto'
            Scale of the losses. See `from_estimator`.
        line_kw : dict, default=None
            Arguments of matplotlib's ``plot`` for all curves.

        Returns
        -------
        LossCurveDisplay

        Raises
        ------
        NotFittedError, TypeError, ValueError, ImportError
            See `from_estimator`.
        """
        import_pyplot()  # before candidates are trained in vain
        estimators = find_cv_estimators(cv_results, X, y, n_candidates)
        return cls.from_estimators(estimators, ax=ax, scores=scores, yscale=yscale, line_kw=line_kw)

    def plot(
        self,
        ax: Any = None,
        *,
        scores: bool = False,
        yscale: str = "auto",
        line_kw: dict[str, Any] | None = None,
    ) -> "LossCurveDisplay":
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on. None makes a new figure.
        scores : bool, default=False
            Whether to draw the validation scores too, on a second axis.
        yscale : {'auto', 'linear', 'log'}, default='auto'
            Scale of the losses. See `from_estimator`.
        line_kw : dict, default=None
            Arguments of matplotlib's ``plot`` for all curves.

        Returns
        -------
        LossCurveDisplay

        Raises
        ------
        ValueError
            If a parameter is not as described, or there are no curves.
        ImportError
            If matplotlib is not installed.
        """
        self._check(scores, yscale)
        pyplot = import_pyplot()
        self.ax_ = pyplot.subplots()[1] if ax is None else ax
        self.figure_ = self.ax_.figure
        self.score_ax_ = self.ax_.twinx() if scores else None
        self.lines_: list[Any] = []
        self.best_epochs_: list[Any] = []
        styles = pyplot.matplotlib.cbook.normalize_kwargs(line_kw, pyplot.Line2D)
        for number, (name, curves) in enumerate(self.curves.items()):
            self._draw(name, curves, self._find_colour(number, pyplot), styles)
        self._label_axes(yscale)
        legend_ax = self.ax_ if self.score_ax_ is None else self.score_ax_  # which is in front
        legend_ax.legend(handles=self._make_handles(pyplot), fontsize="small")
        return self

    def _check(self, scores: bool, yscale: str) -> None:
        if not self.curves:
            raise ValueError("There must be the curves of a network to draw, got none. Pass at least one network.")
        if yscale not in SCALES:
            raise ValueError(f"yscale must be one of {list(SCALES)}, got {yscale!r}. Choose one of them.")
        if scores and all(curves.scores is None for curves in self.curves.values()):
            raise ValueError(
                "scores must be False for networks without validation scores, got True. Fit with early_stopping=True, "
                "or with X_val and y_val, or leave scores False."
            )

    def _find_colour(self, number: int, pyplot: Any) -> Any:
        if len(self.curves) <= N_COLOURS:
            return f"C{number}"
        return pyplot.colormaps["viridis"](number / len(self.curves))  # its yellow end is hard to see

    def _draw(self, name: str, curves: LossCurves, colour: Any, styles: dict[str, Any]) -> None:
        """Draw the curves of a network, and mark its best epoch."""
        for kind, epochs, values in _list_lines(curves, self.score_ax_ is not None):
            style = {"color": colour, "linestyle": STYLES[kind], "label": f"{name}, {kind}"}
            if len(self.curves) == 1:
                style = {"color": f"C{list(STYLES).index(kind)}", "linestyle": "-", "label": kind}
            style["marker"] = "." if len(values) == 1 else ""  # a line of one point cannot be seen
            axes: Any = self.score_ax_ if kind == "score" else self.ax_
            self.lines_ += axes.plot(epochs, values, **(style | styles))
            if kind == "validation" and curves.best_epoch is not None:
                point = curves.best_epoch, values[curves.best_epoch - curves.start - 1]
                mark = {"marker": "o", "linestyle": "", "color": self.lines_[-1].get_color(), "zorder": 3}
                self.best_epochs_ += self.ax_.plot(*zip(point, strict=True), label="best epoch", **mark)

    def _label_axes(self, yscale: str) -> None:
        from matplotlib.ticker import MaxNLocator

        networks = self.curves.values()
        self.ax_.set_xlabel(_name_all("Epoch", [curves.unit for curves in networks]))
        self.ax_.set_ylabel(_name_all("Loss", [curves.loss_name for curves in networks]))
        self.ax_.xaxis.set_major_locator(MaxNLocator(integer=True))
        if yscale == "log" or (yscale == "auto" and self._suits_log_scale()):
            self.ax_.set_yscale("log")
        if self.score_ax_ is not None:
            names = [curves.score_name for curves in networks if curves.scores is not None]
            self.score_ax_.set_ylabel(_name_all("Score", names))

    def _suits_log_scale(self) -> bool:
        losses = np.concatenate(
            [values for curves in self.curves.values() for _, _, values in _list_lines(curves, with_scores=False)]
        )
        losses = losses[np.isfinite(losses)]
        return len(losses) > 0 and bool(losses.max() > LOG_RATIO * losses.min() > 0)

    def _make_handles(self, pyplot: Any) -> list[Any]:
        """Return the entries of the legend. For several networks: a colour for each, and a style for each kind."""
        if len(self.curves) == 1:
            for mark, curves in zip(self.best_epochs_, self.curves.values(), strict=False):
                mark.set_label(f"best {curves.unit} ({curves.best_epoch})")
            return [*self.lines_, *self.best_epochs_]
        with_scores = self.score_ax_ is not None
        drawn = {name: [kind for kind, *_ in _list_lines(each, with_scores)] for name, each in self.curves.items()}
        firsts = np.cumsum([0, *map(len, drawn.values())])[:-1]
        handles = [
            pyplot.Line2D([], [], color=self.lines_[first].get_color(), label=name)
            for first, name in zip(firsts, drawn, strict=True)
        ]
        handles += [
            pyplot.Line2D([], [], color="grey", linestyle=style, label=kind)
            for kind, style in STYLES.items()
            if any(kind in kinds for kinds in drawn.values())
        ]
        if self.best_epochs_:
            handles.append(pyplot.Line2D([], [], color="grey", linestyle="", marker="o", label="best epoch"))
        return handles


def import_pyplot() -> Any:
    """Return matplotlib's pyplot, or raise ImportError that says what to install."""
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError("LossCurveDisplay needs matplotlib. Install it: pip install matplotlib") from error
    return pyplot


def _list_lines(curves: LossCurves, with_scores: bool) -> Iterator[tuple[str, Any, Any]]:
    """Yield the kind, the epochs and the values of each curve of a network."""
    yield "training", np.arange(1, len(curves.training) + 1), curves.training
    for kind, values in (("validation", curves.validation), ("score", curves.scores if with_scores else None)):
        if values is not None:
            yield kind, curves.start + np.arange(1, len(values) + 1), values


def _name_all(default: str, names: list[str]) -> str:
    """Return the name that all have, its first letter as a capital, or ``default`` if they differ."""
    return names[0][0].upper() + names[0][1:] if len(set(names)) == 1 else default
