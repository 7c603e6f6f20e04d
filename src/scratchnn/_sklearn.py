"""What scikit-learn keeps private or has not, in one place."""

import functools
import types
from collections.abc import Callable
from typing import Any

from sklearn.base import _fit_context as fit_context
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.multiclass import _check_partial_fit_first_call as check_partial_fit_first_call

__all__ = [
    "Interval",
    "Options",
    "StrOptions",
    "UnavailableError",
    "available_unless",
    "check_partial_fit_first_call",
    "fit_context",
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
