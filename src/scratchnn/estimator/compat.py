"""All that the package uses of scikit-learn's private functions, and what scikit-learn lacks."""

import functools
import inspect
import types
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.base import _fit_context as fit_context
from sklearn.model_selection import check_cv
from sklearn.utils._array_api import get_namespace_and_device
from sklearn.utils._metadata_requests import _raise_for_params, _routing_enabled
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils._repr_html.estimator import _VisualBlock
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing
from sklearn.utils.multiclass import _check_partial_fit_first_call as check_partial_fit_first_call

try:
    from sklearn.utils._array_api import check_same_namespace

    HAS_ARRAY_API = True
except ImportError:  # scikit-learn before 1.9 checks array API support in another way
    HAS_ARRAY_API = False

    def check_same_namespace(X: Any, estimator: Any, *, attribute: str, method: str) -> None:
        """Do nothing: this scikit-learn has no such check."""


__all__ = [
    "HAS_ARRAY_API",
    "Interval",
    "NotebookMixin",
    "Options",
    "StrOptions",
    "UnavailableError",
    "available_unless",
    "check_partial_fit_first_call",
    "check_same_namespace",
    "fit_context",
    "get_class_arguments",
    "get_namespace_and_device",
    "make_router",
    "make_splits",
    "warn_user",
]


# Frames of these packages are not the user's. How many there are depends on scikit-learn's version.
LIBRARIES = {"scratchnn", "sklearn"}


N_FOLDS = 3  # of cross-validation, by default
DOCUMENTATION = "https://scratchnn.readthedocs.io/en/stable"


class NotebookMixin:
    """What notebooks show of an estimator, beside scikit-learn's own: links to our pages, layers and epochs."""

    _doc_link_module = "scratchnn"
    _doc_link_template = DOCUMENTATION + "/generated/estimators/scratchnn.{estimator_name}.html"

    def _sk_visual_block_(self) -> _VisualBlock:
        name = type(self).__name__
        return _VisualBlock("single", self, names=name, name_details=str(self), name_caption=_describe_network(self))

    def _get_fitted_attr_html(self, doc_link: str = "") -> Any:
        # Of properties that raise AttributeError, scikit-learn shows the property itself.
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


class UnavailableError(AttributeError, ValueError):
    """The parameters rule a method out: an attribute is missing, and a value is the reason."""


class available_unless:
    """Makes a method an attribute only where ``forbid`` finds no reason against it, as ``available_if`` does.

    ``available_if`` would hide the reason, and raise an AttributeError where MLPClassifier's users expect a ValueError.
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
    """Return the arguments that tell a scorer's metric which classes there are, as its targets may lack some.

    Only a metric of probabilities or logits needs it, to know the class of each column. For a metric of predicted
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


def make_router(estimator: Any) -> MetadataRouter:
    """Return who gets the metadata of `fit`: the estimator itself and its ``cv``."""
    router = MetadataRouter(owner=estimator).add_self_request(estimator)
    return router.add(splitter=estimator.cv, method_mapping=MethodMapping().add(caller="fit", callee="split"))


def make_splits(estimator: Any, X: Any, y: Any, params: dict[str, Any]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the rows to train on and those to score on, for each fold of ``estimator.cv``.

    Raises
    ------
    ValueError
        If there is metadata, and scikit-learn does not route it, or if ``cv`` cannot split the rows.
    """
    _raise_for_params(params, estimator, "fit")
    routed = process_routing(estimator, "fit", **params).splitter.split if _routing_enabled() and params else {}
    cv = check_cv(N_FOLDS if estimator.cv is None else estimator.cv, y, classifier=True)
    try:
        return list(cv.split(X, y, **routed))
    except ValueError as error:
        raise ValueError(f"cv must be able to split the rows, got {estimator.cv!r}, which cannot: {error}") from error


def warn_user(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn, and show the line of the user's code that led here: the nearest one outside of ``LIBRARIES``.

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
