"""Arrays of NumPy, scipy and other libraries, PyTorch tensors that share their memory, and devices."""

from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from sklearn import get_config
from torch import Tensor

from .._compat import get_namespace_and_device
from ..exceptions import MissingDeviceError

Array = NDArray[Any]
Features = Any  # (n_samples, n_features): an ndarray, a tensor, or a CSR matrix or array of scipy


def count_block_rows(X: Features, width: int = 1) -> int:
    """Return how many rows a block has: as many as fit in the cache, with ``width`` values computed for each."""
    n_values = int(X.nnz // max(1, X.shape[0]) + 1 if sparse.issparse(X) else X.shape[1])
    return min(8192, max(1, 2**18 // max(n_values, width)))


def is_mapped_file(X: Any) -> bool:
    """Return whether the user has mapped an array. Arrays that joblib has mapped for its workers fit in memory."""
    while isinstance(X, np.ndarray):
        if isinstance(X, np.memmap):
            return "joblib_memmapping_folder" not in str(X.filename)
        X = X.base
    return False


def get_float_dtype(X: Any) -> np.dtype[Any]:
    """Return the dtype in which values of X are read: its own, or float64 if that is neither float32 nor float64."""
    dtype = X.dtype if isinstance(X.dtype, np.dtype) else np.dtype(str(X.dtype).removeprefix("torch."))
    return dtype if dtype.char in "fd" and dtype.isnative else np.dtype(np.float64)


def get_device(X: Features) -> torch.device:
    """Return the device of X: the CPU for everything except tensors."""
    return X.device if isinstance(X, Tensor) else torch.device("cpu")


def to_tensor(array: Any) -> Tensor:
    """Return the array as a tensor on its device, if possible without a copy. It must not be written to."""
    if not isinstance(array, np.ndarray):
        return array.detach() if isinstance(array, Tensor) else torch.utils.dlpack.from_dlpack(array)
    array = np.ascontiguousarray(array)
    if min(array.strides, default=0) < 0:  # as of a single row that is reversed, which NumPy calls contiguous
        array = array.copy()
    if not array.flags.writeable and array.size:
        # PyTorch has no read-only tensors and would warn, so the memory is presented as writable.
        interface = {**array.__array_interface__, "data": (array.ctypes.data, False)}
        array = np.asarray(SimpleNamespace(__array_interface__=interface, owner=array))
    return torch.from_numpy(array)


def has_own_library(array: Any) -> bool:
    """Return whether this is an array of another library than NumPy."""
    return hasattr(array, "__dlpack__") and not isinstance(array, np.ndarray)


def to_host(array: Any) -> Array:
    """Return an array of any library, or nested lists, as a NumPy array, if possible without a copy."""
    return to_tensor(array).cpu().numpy() if has_own_library(array) else np.asarray(array)


class ArrayLibrary(NamedTuple):
    """The namespace of an array library other than NumPy, and one of its devices."""

    namespace: Any
    device: Any

    def convert(self, values: Tensor | Array) -> Any:
        """Return a tensor or a NumPy array as an array of this library, on this device."""
        if self.namespace.__name__.endswith("torch"):
            return torch.as_tensor(values, device=self.device)
        return self.namespace.asarray(to_host(values), device=self.device)


def find_array_library(X: Any) -> ArrayLibrary | None:
    """Return the library of X if scikit-learn dispatches to it by the array API; None for NumPy arrays."""
    if not get_config()["array_api_dispatch"] or not hasattr(X, "__dlpack__"):
        return None
    namespace, is_compliant, device = get_namespace_and_device(X)
    return ArrayLibrary(namespace, device) if is_compliant and "numpy" not in namespace.__name__ else None


def get_float_dtypes(array_library: ArrayLibrary | None) -> tuple[Any, Any]:
    """Return the float dtypes that X may keep, in its own library (None: NumPy)."""
    namespace: Any = np if array_library is None else array_library.namespace
    return namespace.float64, namespace.float32


def to_numpy(values: Any) -> Any:
    """Return an array of a library that scikit-learn dispatches to as a NumPy array, and anything else unchanged."""
    return values if find_array_library(values) is None else to_host(values)


def to_library_of(values: Tensor | Array, X: Any) -> Array:
    """Return results as an array of the library of X, on the device of X. Text labels stay a NumPy array."""
    array_library = find_array_library(X)
    is_text = isinstance(values, np.ndarray) and values.dtype.kind not in "biuf"
    if array_library is None or is_text:
        return values.numpy() if isinstance(values, Tensor) else values
    converted: Array = array_library.convert(values)
    return converted


def resolve_device(device: str | torch.device, X: Features = None) -> torch.device:
    """Return the device that the parameter means. "auto" is the device of X: the CPU for arrays and frames.

    Raises ValueError if it is neither the CPU nor a CUDA device; MissingDeviceError if PyTorch does not find it.
    """
    if isinstance(device, str) and device == "auto":
        device = get_device(X)
        if device.type == "cpu":  # most calls: the checks below would cost a prediction of one sample several percent
            return device
    try:
        resolved = torch.device(device)
        if resolved.type not in ("cpu", "cuda"):
            raise TypeError(f"PyTorch calls its type {resolved.type!r}")
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"device must be 'auto', 'cpu', 'cuda', 'cuda:N' or a torch.device of these types, got {device!r}."
        ) from error
    if resolved.type == "cpu" or (torch.cuda.is_available() and (resolved.index or 0) < torch.cuda.device_count()):
        return resolved
    raise MissingDeviceError(
        f"device must be available, got {device!r} where PyTorch finds {torch.cuda.device_count()} CUDA devices. Use "
        "device='cpu' or 'auto', or install a CUDA build of PyTorch and its driver."
    )
