"""Array libraries other than NumPy, and devices."""

from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn import get_config

from .._compat import get_namespace_and_device
from ..exceptions import MissingDeviceError
from .arrays import Features, to_host


class ArrayLibrary(NamedTuple):
    """An array library other than NumPy, by its namespace, and one of its devices."""

    namespace: Any
    device: Any

    def convert(self, values: torch.Tensor | np.ndarray) -> Any:
        """Return a tensor or a NumPy array as an array of this library, on this device."""
        if self.namespace.__name__.endswith("torch"):
            return torch.as_tensor(values, device=self.device)
        return self.namespace.asarray(to_host(values), device=self.device)


def find_array_library(X: Any) -> ArrayLibrary | None:
    """Return the library of X if scikit-learn dispatches to it by the array API; None for NumPy's arrays."""
    if not get_config()["array_api_dispatch"] or not hasattr(X, "__dlpack__"):
        return None
    namespace, is_compliant, device = get_namespace_and_device(X)
    return ArrayLibrary(namespace, device) if is_compliant and "numpy" not in namespace.__name__ else None


def get_float_dtypes(array_library: ArrayLibrary | None) -> tuple[Any, Any]:
    """Return the float dtypes that X may keep, as its own library names them (None: NumPy)."""
    namespace: Any = np if array_library is None else array_library.namespace
    return namespace.float64, namespace.float32


def to_numpy(values: Any) -> Any:
    """Return an array of a library that scikit-learn dispatches to as a NumPy array. Anything else is not changed."""
    return values if find_array_library(values) is None else to_host(values)


def to_library_of(values: torch.Tensor | np.ndarray, X: Any) -> np.ndarray:
    """Return results as an array of the library of X, on the device of X.

    Labels that are not numbers are always a NumPy array.
    """
    array_library = find_array_library(X)
    if array_library is None or (isinstance(values, np.ndarray) and values.dtype.kind not in "biuf"):
        return values.numpy() if isinstance(values, torch.Tensor) else values
    converted: np.ndarray = array_library.convert(values)  # or another library's array, which has no common type
    return converted


def resolve_device(device: str | torch.device, X: Features = None) -> torch.device:
    """Return the device that the parameter means: "auto" is where X is, the CPU for arrays and frames.

    Raises ValueError if ``device`` is neither the CPU nor a CUDA device; MissingDeviceError if it is a CUDA device that
    PyTorch does not find.
    """
    if isinstance(device, str) and device == "auto":
        if isinstance(X, torch.Tensor):
            return resolve_device(X.device)
        return torch.device("cpu")
    rule = "device must be 'auto', 'cpu', 'cuda', 'cuda:N' or a torch.device of these types"
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"{rule}, got {device!r}.") from error
    if resolved.type not in ("cpu", "cuda"):
        raise ValueError(f"{rule}, got {device!r}.")
    n_devices = torch.cuda.device_count() if resolved.type == "cuda" else 1
    if resolved.type == "cuda" and (not torch.cuda.is_available() or (resolved.index or 0) >= n_devices):
        raise MissingDeviceError(
            f"device must be one that is there, got {device!r} where PyTorch sees {torch.cuda.device_count()} CUDA "
            "devices. Use device='cpu' or 'auto', or install a CUDA build of PyTorch and its driver."
        )
    return resolved
