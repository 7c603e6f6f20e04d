"""What files of estimators hold besides their attributes: the version that wrote them."""

from typing import Any

from .._version import __version__
from ..exceptions import InconsistentVersionWarning
from .compat import warn_user

VERSION_KEY = "_scratchnn_version"  # in the state that pickle, joblib and skops store


class VersionMixin:
    """Adds the version of scratchnn to what is stored of an estimator, and warns when another version loads it."""

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), VERSION_KEY: __version__}  # type: ignore[dict-item]

    def __setstate__(self, state: dict[str, Any]) -> None:
        attributes = dict(state)
        version = attributes.pop(VERSION_KEY, "of an unknown version")
        if version != __version__:
            warn_user(
                f"This {type(self).__name__} was saved by scratchnn {version}, and is loaded by scratchnn "
                f"{__version__}: its predictions may differ, or fail. Compare them with known ones, or fit and save it "
                "again.",
                InconsistentVersionWarning,
            )
        super().__setstate__(attributes)  # type: ignore[misc]
