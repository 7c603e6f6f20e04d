"""Loss curves as a figure, by the conventions of scikit-learn's displays."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .axes import SCALES, add_legend, import_pyplot, set_epoch_ticks, set_loss_scale
from .curves import LossCurves, find_cv_estimators, find_network, read_curves

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
        self.ax_ = pyplot.subplots(layout="constrained")[1] if ax is None else ax
        self.figure_ = self.ax_.figure
        self.score_ax_ = self.ax_.twinx() if scores else None
        self.lines_: list[Any] = []
        self.best_epochs_: list[Any] = []
        styles = pyplot.matplotlib.cbook.normalize_kwargs(line_kw, pyplot.Line2D)
        for number, (name, curves) in enumerate(self.curves.items()):
            self._draw(name, curves, self._find_colour(number, pyplot), styles)
        self._label_axes()
        set_loss_scale(self.ax_, yscale, self._join_losses())
        handles = self._make_handles(pyplot)
        add_legend(self.ax_, handles, above=len(self.curves) > 1 or scores)  # inside, it would hide lines
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
        for kind, epochs, values in curves.list_lines(self.score_ax_ is not None):
            style = {"color": colour, "linestyle": self._find_style(kind), "label": f"{name}, {kind}"}
            if len(self.curves) == 1:
                style = {"color": f"C{list(STYLES).index(kind)}", "linestyle": "-", "label": kind}
            style["marker"] = "." if len(values) == 1 else ""  # a line of one point cannot be seen
            axes: Any = self.score_ax_ if kind == "score" else self.ax_
            self.lines_ += axes.plot(epochs, values, **(style | styles))
            if kind == "validation" and curves.best_epoch is not None:
                best = curves.best_epoch
                mark = {"marker": "o", "linestyle": "", "color": self.lines_[-1].get_color(), "zorder": 3}
                label = f"best {curves.unit} ({best})"
                self.best_epochs_ += self.ax_.plot([best], [values[best - curves.start - 1]], label=label, **mark)

    def _find_style(self, kind: str) -> str:
        """Return the style of a line: all are solid if there are no others than those of training."""
        return STYLES[kind] if len(self._list_kinds()) > 1 else "-"

    def _list_kinds(self) -> list[str]:
        """Return the kinds of the curves that are drawn."""
        drawn = {kind for each in self.curves.values() for kind, _, _ in each.list_lines(self.score_ax_ is not None)}
        return [kind for kind in STYLES if kind in drawn]

    def _join_losses(self) -> Any:
        """Return all losses that are drawn, (n_losses,)."""
        return np.concatenate([values for each in self.curves.values() for _, _, values in each.list_lines(False)])

    def _label_axes(self) -> None:
        networks = self.curves.values()
        self.ax_.set_xlabel(_name_all("Epoch", [curves.unit for curves in networks]))
        self.ax_.set_ylabel(_name_all("Loss", [curves.loss_name for curves in networks]))
        set_epoch_ticks(self.ax_)
        if self.score_ax_ is not None:
            names = {curves.score_name for curves in networks if curves.scores is not None}
            self.score_ax_.set_ylabel(f"Validation score{f' ({names.pop()})' if len(names) == 1 else ''}")

    def _make_handles(self, pyplot: Any) -> list[Any]:
        """Return the entries of the legend. For several networks: a colour for each, and a style for each kind."""
        if len(self.curves) == 1:
            return [*self.lines_, *self.best_epochs_]
        colours = {line.get_label().rpartition(", ")[0]: line.get_color() for line in self.lines_}
        handles = [pyplot.Line2D([], [], color=colour, label=name) for name, colour in colours.items()]
        kinds = self._list_kinds()
        if len(kinds) > 1:
            handles += [pyplot.Line2D([], [], color="grey", linestyle=STYLES[kind], label=kind) for kind in kinds]
        if self.best_epochs_:
            handles.append(pyplot.Line2D([], [], color="grey", linestyle="", marker="o", label="best epoch"))
        return handles


def _name_all(default: str, names: list[str]) -> str:
    """Return the name that all have, its first letter as a capital, or ``default`` if they differ."""
    return names[0][0].upper() + names[0][1:] if len(set(names)) == 1 else default
