"""Loss curves as a figure, by the conventions of scikit-learn's displays."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .curves import LossCurves, read_curves

STYLES = {"training": "-", "validation": "--", "validation score": ":"}


class LossCurveDisplay:
    """Training and validation loss of each epoch.

    Create it with `from_estimator`. All parameters are stored as attributes.

    Parameters
    ----------
    curves : dict of str to LossCurves
        The curves of each network, by its name.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the losses.
    score_ax_ : matplotlib Axes or None
        Axes with the validation scores. None if they are not drawn.
    figure_ : matplotlib Figure
        Figure of the axes.
    lines_ : list of matplotlib Line2D
        The curves: for each network its training loss, its validation loss and its validation score, if drawn.
    best_epochs_ : list of matplotlib Line2D
        Markers of the epoch with the best validation score, one for each network with a validation set.
    legend_ : matplotlib Legend
        The legend: beside the axes in a new figure, inside if the axes are given.

    See Also
    --------
    ScratchNNClassifier : Its ``training_loss_curve_``, ``validation_loss_curve_`` and ``validation_scores_`` are drawn.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from scratchnn import LossCurveDisplay, ScratchNNClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> narrow = ScratchNNClassifier((5,), early_stopping=True, random_state=0).fit(X, y)
    >>> display = LossCurveDisplay.from_estimator(narrow)
    >>> [line.get_label() for line in display.lines_]
    ['training', 'validation']
    >>> wide = ScratchNNClassifier((50,), early_stopping=True, random_state=0).fit(X, y)
    >>> display = LossCurveDisplay.from_estimator({"narrow": narrow, "wide": wide}, scores=True)
    """

    def __init__(self, curves: Mapping[str, LossCurves]) -> None:
        self.curves = curves

    @classmethod
    def from_estimator(
        cls, estimator: Any, *, ax: Any = None, scores: bool = False, curve_kwargs: dict[str, Any] | None = None
    ) -> "LossCurveDisplay":
        """Draw the loss curves of one or several fitted networks.

        Parameters
        ----------
        estimator : estimator, list of estimator, or dict of str to estimator
            A fitted `ScratchNNClassifier`, a pipeline that ends in one, or a search over either, whose
            ``best_estimator_`` is drawn. Pass several as a list, or as a dict with their names for the legend.
        ax : matplotlib Axes, default=None
            Axes to draw on. If None, a new figure is created.
        scores : bool, default=False
            Whether to draw the validation scores on a second axis.
        curve_kwargs : dict, default=None
            Keyword arguments passed to Matplotlib's ``plot`` for all curves.

        Returns
        -------
        LossCurveDisplay

        Raises
        ------
        NotFittedError, TypeError
            If an estimator is not fitted, or is of another class.
        ValueError
            If there is no estimator, or there are no validation scores to draw.
        ImportError
            If Matplotlib is not installed.
        """
        if isinstance(estimator, list | tuple):
            estimator = {f"network {i}": each for i, each in enumerate(estimator)}
        if not isinstance(estimator, Mapping):
            curves = {type(estimator).__name__: read_curves(estimator, "estimator")}
        else:
            curves = {name: read_curves(each, f"estimator[{name!r}]") for name, each in estimator.items()}
        return cls(curves).plot(ax, scores=scores, curve_kwargs=curve_kwargs)

    def plot(
        self, ax: Any = None, *, scores: bool = False, curve_kwargs: dict[str, Any] | None = None
    ) -> "LossCurveDisplay":
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on. If None, a new figure is created.
        scores : bool, default=False
            Whether to draw the validation scores on a second axis.
        curve_kwargs : dict, default=None
            Keyword arguments passed to Matplotlib's ``plot`` for all curves.

        Returns
        -------
        LossCurveDisplay
        """
        try:
            from matplotlib import pyplot
        except ImportError as error:
            raise ImportError("LossCurveDisplay needs Matplotlib. Install it: pip install matplotlib") from error
        if not self.curves:
            raise ValueError("estimator must contain at least one fitted network, got none.")
        if scores and all(curves.scores is None for curves in self.curves.values()):
            raise ValueError(
                "scores must be False for networks without validation scores, got True. Fit with early_stopping=True, "
                "or with X_val and y_val."
            )
        self.ax_ = pyplot.subplots(layout="constrained")[1] if ax is None else ax
        self.score_ax_ = self.ax_.twinx() if scores else None
        self.figure_ = self.ax_.figure
        self.best_epochs_: list[Any] = []
        lines: dict[tuple[str, str], Any] = {}
        for i, name in enumerate(self.curves):
            lines |= self._draw(name, i, curve_kwargs or {})
        self.lines_ = list(lines.values())
        all_names = zip(*[curves[3:] for curves in self.curves.values()], strict=True)
        loss_name, score_name, unit = (" or ".join(filter(None, dict.fromkeys(names))) for names in all_names)
        self.ax_.set(xlabel=unit.capitalize(), ylabel=loss_name)
        if self.score_ax_ is not None:
            self.score_ax_.set_ylabel(f"Validation score ({score_name})")
        handles = [*self.lines_, *self.best_epochs_] if len(self.curves) == 1 else self._make_handles(lines, unit)
        parent: Any = self.figure_ if ax is None else self.score_ax_ or self.ax_
        self.legend_ = parent.legend(handles=handles, loc="outside right upper" if ax is None else "best")
        return self

    def _draw(self, name: str, i: int, kwargs: dict[str, Any]) -> dict[tuple[str, str], Any]:
        """Draw the curves of the network of index ``i``, mark its best epoch, and return the lines by name and kind."""
        curves, lines = self.curves[name], {}
        for k, (kind, values) in enumerate(zip(STYLES, curves[:3], strict=True)):
            axes: Any = self.score_ax_ if kind == "validation score" else self.ax_
            if values is None or axes is None:
                continue
            color, label = (f"C{k}", kind) if len(self.curves) == 1 else (f"C{i}", f"{name}, {kind}")
            marker = "." if np.isfinite(values).sum() == 1 else ""  # one point makes no line
            (line,) = axes.plot(np.arange(1, len(values) + 1), values, STYLES[kind], color=color, marker=marker)
            line.set(**({"label": label} | kwargs))  # after plot, where aliases such as "lw" are no duplicates
            lines[name, kind] = line
        if curves.scores is not None and np.isfinite(curves.scores).any():
            best = int(np.nanargmax(curves.scores)) + 1
            style = {"color": lines[name, "validation"].get_color(), "label": f"best {curves.unit} ({best})"}
            self.best_epochs_ += self.ax_.plot([best], [curves.validation[best - 1]], "o", **style)
        return lines

    def _make_handles(self, lines: dict[tuple[str, str], Any], unit: str) -> list[Any]:
        """Return the legend of several networks: a color for each network, and a line style for each kind of curve."""
        from matplotlib.lines import Line2D

        colors = {name: line.get_color() for (name, _), line in lines.items()}
        styles = {kind: line.get_linestyle() for (_, kind), line in lines.items()}
        handles = [Line2D([], [], color=color, label=name) for name, color in colors.items()]
        if len(styles) > 1:
            handles += [Line2D([], [], color="gray", linestyle=style, label=kind) for kind, style in styles.items()]
        if self.best_epochs_:
            handles += [Line2D([], [], color="gray", linestyle="", marker="o", label=f"best {unit}")]
        return handles
