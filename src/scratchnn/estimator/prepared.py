"""What predictions need of a fitted estimator, prepared once: its network as tensors, and how it reads columns."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..activations import ACTIVATIONS
from ..network import Coeffs
from .arrays import MissingDeviceError, resolve_device
from .compat import warn_user
from .fitted import Memo, read_coeffs, read_edges, read_scales
from .tables import Features, Scaling, get_device


class Prepared:
    """The network of a fitted estimator, with an output for each class or label, and the scaling of its columns.

    The tensors of coefficients share the memory of ``coefs_`` and ``intercepts_`` where they can, so that changes in
    place count. Of all other arrays ``snapshots`` keep the values.
    """

    def __init__(self, estimator: Any, device: torch.device, device_of_X: torch.device) -> None:
        _check_activation(estimator.activation)
        weights, biases = read_coeffs(estimator, device)
        coeffs = Coeffs(weights, list(biases), estimator.activation, estimator.out_activation_)
        self.coeffs = _add_first_class(coeffs) if estimator.n_outputs_ == 1 else coeffs
        self.scaling = Scaling(*read_scales(estimator), read_edges(estimator), device_of_X)
        self.settings = _list_settings(estimator, device, device_of_X)
        self.arrays = _list_arrays(estimator)
        shared = {value.data_ptr() for value in self.coeffs if value.device.type == "cpu"}
        self.snapshots = [
            (array, array.tobytes())
            for array in self.arrays
            if isinstance(array, np.ndarray) and array.ctypes.data not in shared
        ]

    def is_current(self, estimator: Any, device: torch.device, device_of_X: torch.device) -> bool:
        """Return whether the estimator still has the same arrays with the same values. Of lists, that is not known."""
        arrays = _list_arrays(estimator)
        return (
            len(arrays) == len(self.arrays)
            and all(new is old for new, old in zip(arrays, self.arrays, strict=True))
            and self.settings == _list_settings(estimator, device, device_of_X)
            and all(array is None or isinstance(array, np.ndarray) for array in arrays)
            and all(array.tobytes() == values for array, values in self.snapshots)
        )


def prepare(estimator: Any, features: Features) -> Prepared:
    """Return the network for rows, as it was prepared for the last call if nothing has changed since."""
    devices = _find_device(estimator.device, features), get_device(features)
    memo: Memo = getattr(estimator, "_memo", None) or Memo()
    prepared: Prepared | None = memo.prepared
    if prepared is None or not prepared.is_current(estimator, *devices):
        prepared = memo.prepared = Prepared(estimator, *devices)
    return prepared


def _check_activation(activation: Any) -> None:
    """Raise ValueError if the user has since set an activation that does not exist."""
    if activation not in list(ACTIVATIONS):
        raise ValueError(
            f"activation must be one of {sorted(ACTIVATIONS)}, got {activation!r}. Set the one that the network was "
            "trained with."
        )


def _find_device(device: Any, features: Features) -> torch.device:
    """Return the device to compute on. It is the CPU, with a warning, if a model trained on CUDA is used where none is.

    The CPU computes the same model, so its file can be used on any machine.
    """
    try:
        return resolve_device(device, features)
    except MissingDeviceError:
        warn_user(
            f"device={str(device)!r} is not there, so the predictions are computed on the CPU. Call "
            "set_params(device='auto') to say so."
        )
        return torch.device("cpu")


def _list_arrays(estimator: Any) -> list[Any]:
    return [*estimator.coefs_, *estimator.intercepts_, estimator.mean_, estimator.scale_, estimator.bin_edges_]


def _list_settings(estimator: Any, *devices: torch.device) -> tuple[Any, ...]:
    return (estimator.activation, estimator.out_activation_, estimator.n_outputs_, *devices)


def _add_first_class(coeffs: Coeffs) -> Coeffs:
    """Return a network with an output for each of two classes, the first of which is always 0.

    The softmax of 0 and a logit is the logit's sigmoid. It finds each probability by itself, so that neither is rounded
    to 0 early.
    """
    weight, bias = coeffs.weights[-1], coeffs.biases[-1]
    weights = [*coeffs.weights[:-1], F.pad(weight, (1, 0))]
    biases = [*coeffs.biases[:-1], None if bias is None else F.pad(bias, (1, 0))]
    return replace(coeffs, weights=weights, biases=biases, output="softmax")
