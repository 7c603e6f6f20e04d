"""Every private or version-dependent import of scikit-learn, in one place."""

from sklearn.base import _fit_context as fit_context
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.multiclass import _check_partial_fit_first_call as check_partial_fit_first_call

__all__ = [
    "Interval",
    "Options",
    "StrOptions",
    "check_partial_fit_first_call",
    "fit_context",
]
