"""Attributes of a fitted estimator that follow from others."""

from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from .bins import name_bins
from .encoding import name_features
from .fitted import read_edges
from .tables import Array


class DerivedAttributesMixin:
    """Coefficients of the original columns, and what the columns are called that the network reads."""

    coefs_: list[Any]
    intercepts_: list[Any]
    mean_: Any
    scale_: Any
    bin_edges_: Any
    encoder_: Any
    n_features_in_: int

    @property
    def _first_coef(self) -> Any:
        return self.coefs_[0]

    @property
    def coef_(self) -> Array:
        """Weights of the original columns, (1, n_features) for two classes, else (n_outputs, n_features)."""
        weights = self._get_linear_weights("coef_").T
        return weights if self.scale_ is None else weights / self.scale_

    @property
    def intercept_(self) -> Array:
        """Intercepts for the original columns, (1,) for two classes, else (n_outputs,)."""
        self._get_linear_weights("intercept_")
        intercept = self.intercepts_[0]
        shifted: Array = intercept if self.mean_ is None else intercept - self.coef_ @ self.mean_
        return shifted

    @property
    def feature_names_encoded_(self) -> Array:
        """Names of what the rows of ``coefs_[0]`` stand for, (n_rows,)."""
        check_is_fitted(self)
        names = name_features(getattr(self, "feature_names_in_", None), self.n_features_in_)
        if self.encoder_ is not None:
            names = self.encoder_.get_feature_names_out(names)
        return np.concatenate([names, name_bins(names, read_edges(self))]).astype(object)

    def _get_linear_weights(self, name: str) -> Array:
        if len(getattr(self, "coefs_", ())) != 1 or self.bin_edges_ is not None:
            raise AttributeError(
                f"{name} is there only after fit, and without hidden layer (hidden_layer_sizes=()) or bins "
                "(numeric_encoding=None)."
            )
        weights: Array = self.coefs_[0]
        return weights
