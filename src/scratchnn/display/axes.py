"""The axes of loss curves: the import of matplotlib, the scale of the losses, and the legend."""

from typing import Any

import numpy as np

SCALES = ("auto", "linear", "log")
LOG_RATIO = 10  # of the largest loss to the smallest: from there on, "auto" is a logarithmic axis
LEGEND_WIDTH = 100  # characters of a row in a legend above the axes, each entry with HANDLE_WIDTH for its line
HANDLE_WIDTH = 7


def import_pyplot() -> Any:
    """Return matplotlib's pyplot, or raise ImportError that says what to install."""
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError("LossCurveDisplay needs matplotlib. Install it: pip install matplotlib") from error
    return pyplot


def set_loss_scale(ax: Any, yscale: str, losses: Any) -> None:
    """Make the axis of the losses logarithmic if ``yscale`` says so, with labels that are plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if yscale == "log" or (yscale == "auto" and suits_log_scale(losses)):
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())


def suits_log_scale(losses: Any) -> bool:
    """Return whether losses, (n_losses,), are positive and span more than a power of ten."""
    losses = losses[np.isfinite(losses)]
    return len(losses) > 0 and bool(losses.max() > LOG_RATIO * losses.min() > 0)


def set_epoch_ticks(ax: Any) -> None:
    """Put the ticks of the axis of epochs at whole numbers."""
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def add_legend(ax: Any, handles: list[Any], *, above: bool) -> None:
    """Add a legend where it hides least, or above the axes, in as many columns as fit."""
    if not above:
        ax.legend(handles=handles, fontsize="small")
        return
    longest = max(len(handle.get_label()) for handle in handles)
    n_columns = min(len(handles), max(1, LEGEND_WIDTH // (longest + HANDLE_WIDTH)))
    ax.legend(handles=handles, fontsize="small", ncols=n_columns, loc="lower center", bbox_to_anchor=(0.5, 1.0))
