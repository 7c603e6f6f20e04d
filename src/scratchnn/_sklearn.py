"""What scikit-learn keeps private or has not, in one place."""

import functools
import inspect
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn import get_config
from sklearn.base import _fit_context as fit_context
from sklearn.utils._array_api import get_namespace_and_device
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.multiclass import _check_partial_fit_first_call as check_partial_fit_first_call

from ._tables import to_host

try:
    from sklearn.utils._array_api import check_same_namespace

    HAS_ARRAY_API = True
except ImportError:  # before 1.9, whose checks of array API support are other ones
    HAS_ARRAY_API = False

    def check_same_namespace(X: Any, estimator: Any, *, attribute: str, method: str) -> None:
        """Check nothing, as this scikit-learn does not."""


__all__ = [
    "HAS_ARRAY_API",
    "ArrayPlace",
    "Interval",
    "Options",
    "StrOptions",
    "UnavailableError",
    "available_unless",
    "check_partial_fit_first_call",
    "check_same_namespace",
    "fetch",
    "find_place",
    "fit_context",
    "get_class_arguments",
    "give_back",
]


class UnavailableError(AttributeError, ValueError):
    """There is no such method with these parameters: no such attribute, because of a value."""


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


class ArrayPlace(NamedTuple):
    """An array library other than NumPy, by its namespace, and one of its devices."""

    namespace: Any
    device: Any

    def give(self, values: torch.Tensor | np.ndarray) -> Any:
        """Return a tensor or an array of NumPy as an array of this library, on this device."""
        if self.namespace.__name__.endswith("torch"):
            return torch.as_tensor(values, device=self.device)
        return self.namespace.asarray(to_host(values), device=self.device)


def find_place(X: Any) -> ArrayPlace | None:
    """Return where X is if it follows the array API, and scikit-learn is to dispatch to it; None for NumPy's arrays."""
    if not get_config()["array_api_dispatch"] or not hasattr(X, "__dlpack__"):
        return None
    namespace, is_compliant, device = get_namespace_and_device(X)
    return ArrayPlace(namespace, device) if is_compliant and "numpy" not in namespace.__name__ else None


def fetch(values: Any) -> Any:
    """Return an array that scikit-learn would dispatch on as NumPy's, and anything else as it is."""
    return values if find_place(values) is None else to_host(values)


def give_back(values: torch.Tensor | np.ndarray, X: Any) -> np.ndarray:
    """Return results in the library and on the device of X: NumPy's arrays, unless X is of another.

    Labels that are no numbers are NumPy's in any case.
    """
    place = find_place(X)
    if place is None or (isinstance(values, np.ndarray) and values.dtype.kind not in "biuf"):
        return values.numpy() if isinstance(values, torch.Tensor) else values
    given: np.ndarray = place.give(values)  # or another library's array, which has no common type
    return given


def get_class_arguments(scorer: Any, classes: np.ndarray) -> dict[str, Any]:
    """Return what the metric of a scorer must be told of the classes, as the targets it gets may lack some.

    Only a metric of probabilities or logits needs it, to know the class of each column. For a metric of predicted
    labels, ``labels`` and ``pos_label`` choose the classes that count.
    """
    if getattr(scorer, "_response_method", "predict") == "predict":
        return {}
    parameters = inspect.signature(scorer._score_func).parameters
    told = {"labels": classes} | ({"pos_label": classes[1]} if len(classes) == 2 else {})
    return {
        name: value
        for name, value in told.items()
        if name in parameters and parameters[name].default is None and name not in scorer._kwargs
    }
