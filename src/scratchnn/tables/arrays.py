"""Arrays of NumPy, scipy and other libraries, and PyTorch tensors that share their memory."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

Array = NDArray[Any]
Features = Any  # (n_samples, n_features): an ndarray, a tensor, or a CSR matrix or array of scipy


def count_block_rows(X: Features, width: int = 1) -> int:
    """Return how many rows a block has: as many as fit in the cache, with ``width`` values computed for each."""
    n_values = int(X.nnz // max(1, X.shape[0]) + 1 if sparse.issparse(X) else X.shape[1])
    return min(8192, max(1, 2**18 // max(n_values, width)))


def is_mapped_file(X: Any) -> bool:
    """Return whether the user has mapped an array. One that joblib has mapped for its workers fitted in memory."""
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
    """Return the device of the rows."""
    return X.device if isinstance(X, Tensor) else torch.device("cpu")


def to_tensor(array: Any) -> Tensor:
    """Return the array as a tensor on its device, if possible without a copy. It must not be written to."""
    if not isinstance(array, np.ndarray):
        return array.detach() if isinstance(array, Tensor) else torch.utils.dlpack.from_dlpack(array)
    array = np.ascontiguousarray(array)
    if min(array.strides, default=0) < 0:  # as of a single row that is reversed, which NumPy calls contiguous
        array = array.copy()
    if not array.flags.writeable and array.size:
        array = np.asarray(_Memory(array))  # PyTorch knows no read-only tensors and would warn
    return torch.from_numpy(array)


def has_own_library(array: Any) -> bool:
    """Return whether this is an array of another library than NumPy."""
    return hasattr(array, "__dlpack__") and not isinstance(array, np.ndarray)


def to_host(array: Any) -> Array:
    """Return an array of any library, or nested lists, as a NumPy array, if possible without a copy."""
    return to_tensor(array).cpu().numpy() if has_own_library(array) else np.asarray(array)


class _Memory:
    """The memory of an array that may be read-only, offered as writable."""

    def __init__(self, array: Array) -> None:
        interface = dict(array.__array_interface__)
        interface["data"] = (interface["data"][0], False)
        self.__array_interface__ = interface
        self.owner = array
