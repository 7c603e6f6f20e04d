"""A call of `fit` or `partial_fit`: the estimator, its labels and its samples."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from ..tables.arrays import ArrayLibrary
from ..tables.table import Table
from ..tables.targets import Labels


@dataclass(frozen=True)
class Call:
    """A call of `fit` or `partial_fit`, without its samples."""

    estimator: Any
    labels: Labels
    resume: bool  # whether training starts from the fitted attributes
    incremental: bool = False  # whether this is `partial_fit`
    array_library: ArrayLibrary | None = None  # of the fitted model; None: NumPy
    reported: dict[str, Any] | None = None  # X, y and metadata, for callbacks

    @property
    def leaves_out_columns(self) -> bool:
        """Whether constant columns get no weights. ``init="scratch"`` draws weights for all columns."""
        return not self.incremental and (self.resume or self.estimator.init != "scratch")


class Tables(NamedTuple):
    """The training samples, and the validation samples if there are any."""

    training: Table
    validation: Table | None = None
