"""The report of `fused_fits`."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from html import escape
from typing import Any


@dataclass(frozen=True)
class TrainedStack:
    """A stack of fits that were trained together, in ``seconds``."""

    n_models: int
    seconds: float
    sizes: tuple[int, ...]  # neurons per layer, from the features to the outputs
    n_samples: int
    unfused_reason: str | None  # why a fit was trained alone, or None

    @property
    def seconds_per_fit(self) -> float:
        """Seconds of training, divided by the number of fits."""
        return self.seconds / self.n_models

    @property
    def layers(self) -> str:
        """Neurons per layer as text, such as "4-5-3"."""
        return "-".join(map(str, self.sizes))

    def __str__(self) -> str:
        text = f"{self.n_models} x {self.layers} on {self.n_samples} samples: {self.seconds:.2f} s"
        return text if self.unfused_reason is None else f"{text} ({self.unfused_reason})"


@dataclass
class FusionReport:
    """The stacks that `fused_fits` trained, in the order of training. Fits that diverged are included.

    ``n_outside`` counts the fits outside of joblib's tasks, such as the final ``refit`` of a search. They train alone,
    and are in no stack.
    """

    stacks: list[TrainedStack] = field(default_factory=list)
    n_outside: int = 0

    @property
    def n_fits(self) -> int:
        """Number of networks trained by tasks."""
        return sum(stack.n_models for stack in self.stacks)

    @property
    def seconds(self) -> float:
        """Seconds of training in all stacks."""
        return sum(stack.seconds for stack in self.stacks)

    def __str__(self) -> str:
        return "\n".join([*self._describe(), *map(str, self.stacks)])

    def to_frame(self) -> Any:
        """Return the stacks as a table.

        Returns
        -------
        pandas.DataFrame
            A row for each stack, in the order of training. The columns are "n_models", "layers" (the neurons per layer,
            such as "4-5-3"), "n_samples", "seconds", "seconds_per_fit", and "unfused_reason" (why a fit was trained
            alone, or None).

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError(
                "to_frame needs pandas, which is not installed. Install it with pip install pandas, or read stacks."
            ) from error
        rows = [[getattr(stack, name) for name in COLUMNS] for stack in self.stacks]
        return pd.DataFrame(rows, columns=list(COLUMNS))

    def _repr_html_(self) -> str:
        """Return the report as a table for notebooks."""
        head = [f"<p>{escape(text)}</p>" for text in self._describe()]
        has_reason = any(stack.unfused_reason is not None for stack in self.stacks)
        columns = {name: title for name, title in COLUMNS.items() if has_reason or name != "unfused_reason"}
        rows = [_format_row("th", columns.values())]
        rows += [_format_row("td", (getattr(stack, name) for name in columns)) for stack in self.stacks]
        table = f"<table><thead>{rows[0]}</thead><tbody>{''.join(rows[1:])}</tbody></table>" if self.stacks else ""
        return "\n".join([*head, table])

    def _describe(self) -> list[str]:
        n_stacks = len(self.stacks)
        lines = [f"{_count(self.n_fits, 'fit')} in {_count(n_stacks, 'stack')}, {self.seconds:.2f} s of training"]
        if self.n_outside:
            # A search has one such fit, its last. More than that are fits that joblib could run as tasks.
            remedy = ": use joblib.Parallel" if self.n_outside > n_stacks else ""
            lines.append(f"{_count(self.n_outside, 'fit')} outside of joblib's tasks, trained alone{remedy}")
        return lines


# The columns of a report as a table, and their titles in notebooks.
COLUMNS = {
    "n_models": "fits",
    "layers": "layers",
    "n_samples": "samples",
    "seconds": "seconds",
    "seconds_per_fit": "seconds per fit",
    "unfused_reason": "trained alone, because",
}


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _format_row(tag: str, values: Iterable[Any]) -> str:
    texts = [f"{value:.3g}" if isinstance(value, float) else str("" if value is None else value) for value in values]
    return f"<tr>{''.join(f'<{tag}>{escape(text)}</{tag}>' for text in texts)}</tr>"
