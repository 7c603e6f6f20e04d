"""All private or version-dependent imports from scikit-learn, with substitutes for what older versions lack."""

import functools
import inspect
import types
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.base import _fit_context as fit_context
from sklearn.utils._array_api import get_namespace_and_device
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils._repr_html.estimator import _VisualBlock
from sklearn.utils.multiclass import _check_partial_fit_first_call as check_partial_fit_first_call
from sklearn.utils.validation import _check_feature_names_in as check_feature_names_in

from ._version import __version__
from .exceptions import InconsistentVersionWarning, UnavailableError

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """An empty base class, as this scikit-learn has no callbacks."""

    def with_callbacks(method: Callable[..., Any]) -> Callable[..., Any]:
        """Return the method unchanged."""
        return method


try:
    from sklearn.utils._array_api import check_same_namespace

    HAS_ARRAY_API = True
except ImportError:  # scikit-learn before 1.9 checks array API support in another way
    HAS_ARRAY_API = False

    def check_same_namespace(X: Any, estimator: Any, *, attribute: str, method: str) -> None:
        """Do nothing: this scikit-learn has no such check."""


# Packages whose stack frames are not the user's. The number of frames depends on scikit-learn's version.
LIBRARIES = {"scratchnn", "sklearn"}


class NotebookMixin:
    """Adds layers and epochs to the representation of an estimator in notebooks."""

    def _sk_visual_block_(self) -> _VisualBlock:
        name = type(self).__name__
        return _VisualBlock("single", self, names=name, name_details=str(self), name_caption=_describe_network(self))

    def _get_fitted_attr_html(self, doc_link: str = "") -> Any:
        # For a property that raises AttributeError, scikit-learn shows the property object.
        attributes = super()._get_fitted_attr_html(doc_link)  # type: ignore[misc]
        for name in [name for name, shown in attributes.items() if isinstance(shown["value"], property)]:
            del attributes[name]
        return attributes


def _describe_network(estimator: Any) -> str | None:
    """Return the layers and epochs of a fitted network, such as "4-400-3, 50 epochs"; None if it is not fitted."""
    if not hasattr(estimator, "coefs_"):
        return None
    sizes = [np.shape(estimator.coefs_[0])[0], *(np.shape(coef)[1] for coef in estimator.coefs_)]
    n_epochs = len(estimator.loss_curve_)
    return f"layers {'-'.join(map(str, sizes))}, {n_epochs} epoch{'' if n_epochs == 1 else 's'}"


class available_unless:
    """Makes a method available unless ``forbid`` returns a reason, like scikit-learn's ``available_if``.

    ``available_if`` would hide the reason, and raise an AttributeError instead of MLPClassifier's ValueError.
    """

    def __init__(self, forbid: Callable[[Any], str | None]) -> None:
        self.forbid = forbid

    def __call__(self, method: Callable[..., Any]) -> "available_unless":
        """Decorate the method."""
        self.method = method
        functools.update_wrapper(self, method)
        return self

    def __get__(self, instance: Any, owner: type) -> Callable[..., Any]:
        """Return the method, or raise UnavailableError."""
        if instance is None:
            return self.method
        reason = self.forbid(instance)
        if reason is not None:
            raise UnavailableError(reason)
        return types.MethodType(self.method, instance)


def get_class_arguments(scorer: Any, classes: np.ndarray) -> dict[str, Any]:
    """Return the arguments that pass all classes to a scorer's metric, as its targets may lack some.

    Only a metric of probabilities or logits needs them, to know the class of each column. For a metric of predicted
    labels, ``labels`` and ``pos_label`` choose the classes that count.
    """
    if getattr(scorer, "_response_method", "predict") == "predict":
        return {}
    parameters = inspect.signature(scorer._score_func).parameters
    arguments = {"labels": classes} | ({"pos_label": classes[1]} if len(classes) == 2 else {})
    return {
        name: value
        for name, value in arguments.items()
        if name in parameters and parameters[name].default is None and name not in scorer._kwargs
    }


def warn_user(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn, with the line of the user's code: the nearest line outside of ``LIBRARIES``.

    If joblib made the call, as in a search, the user's line may be in another thread or process. The warning then shows
    the line that called this package, for every backend of joblib.
    """
    frame, level, calling_level = inspect.currentframe(), 1, 0
    package = "scratchnn"
    while frame is not None and (package := frame.f_globals.get("__name__", "").partition(".")[0]) in LIBRARIES:
        if package == "sklearn" and not calling_level:
            calling_level = level
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=calling_level if package == "joblib" and calling_level else level)


CACHE = "_cache"  # the attribute that holds the cache of predictions
VERSION_KEY = "_scratchnn_version"  # in the state that pickle, joblib and skops store


class VersionMixin:
    """Stores the version of scratchnn with an estimator, and warns when another version loads it.

    Copies and files do not contain the cache of predictions.
    """

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()  # type: ignore[assignment]
        return {name: value for name, value in state.items() if name != CACHE} | {VERSION_KEY: __version__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        attributes = {**state, CACHE: {}}
        version = attributes.pop(VERSION_KEY, "of an unknown version")
        if version != __version__:
            warn_user(
                f"This {type(self).__name__} was saved by scratchnn {version}, and is loaded by scratchnn "
                f"{__version__}: its predictions may differ, or fail. Compare them with known ones, or fit and save it "
                "again.",
                InconsistentVersionWarning,
            )
        super().__setstate__(attributes)  # type: ignore[misc]
