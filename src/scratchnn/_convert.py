"""The border between arrays and tensors: devices, dtypes, column scales, targets, coefficients."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.preprocessing import StandardScaler

from .network import OUTPUTS, Coeffs, calc_layers

Array = NDArray[Any]
N_BLOCK_ROWS = 16384  # rows at a time, where a whole copy of X would be a waste
N_SMALL_ROWS = 500  # up to so many rows, dtype="auto" trains in the precision of X


def resolve_device(device: str | torch.device) -> torch.device:
    """Return the device that the parameter means.

    Raises
    ------
    ValueError
        If it is none that PyTorch knows, or a CUDA device that is not there.
    """
    if isinstance(device, str) and device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rule = "device must be 'auto', 'cpu', 'cuda', 'cuda:N' or a torch.device of these types"
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"{rule}, got {device!r}. Choose one, or leave it 'auto'.") from error
    if resolved.type not in ("cpu", "cuda"):
        raise ValueError(f"{rule}, got {device!r}. Choose one, or leave it 'auto'.")
    n_devices = torch.cuda.device_count() if resolved.type == "cuda" else 1
    if resolved.type == "cuda" and (not torch.cuda.is_available() or (resolved.index or 0) >= n_devices):
        raise ValueError(
            f"device must be one that is there, got {device!r} where PyTorch sees {torch.cuda.device_count()} CUDA "
            "devices. Use device='cpu' or 'auto', or install a CUDA build of PyTorch and its driver."
        )
    return resolved


def resolve_dtype(dtype: str, X: Array, solver: str) -> np.dtype[Any]:
    """Return the dtype to train in. "auto": that of X where it is float32, small, or for lbfgs; else float32."""
    if dtype != "auto":
        return np.dtype(dtype)
    return X.dtype if len(X) <= N_SMALL_ROWS or solver == "lbfgs" else np.dtype(np.float32)


class _Memory:
    """The memory of an array that may be read-only, offered as writable."""

    def __init__(self, array: Array) -> None:
        interface = dict(array.__array_interface__)
        interface["data"] = (interface["data"][0], False)
        self.__array_interface__ = interface
        self.owner = array


def to_tensor(array: Array, device: torch.device) -> torch.Tensor:
    """Return the array as a tensor, without a copy on the CPU. It must not be written to."""
    if not array.flags.writeable and array.size:
        array = np.asarray(_Memory(array))  # PyTorch knows no read-only tensors and would warn
    return torch.from_numpy(array).to(device)


def fit_scaler(scaler: StandardScaler, X: Array, sample_weight: Array | None) -> None:
    """Add the rows of X to the scaler's statistics, in place, block by block."""
    for rows in _row_blocks(len(X)):
        scaler.partial_fit(X[rows], sample_weight=None if sample_weight is None else sample_weight[rows])


def convert_features(X: Array, mean: Array | None, scale: Array | None, dtype: np.dtype[Any]) -> Array:
    """Return X in C order and ``dtype``, centred and scaled in its own precision first. No copy if none is due."""
    if mean is None or scale is None:
        return np.ascontiguousarray(X, dtype=dtype)
    result = np.empty(X.shape, dtype)
    for rows in _row_blocks(len(X)):
        np.divide(X[rows] - mean, scale, out=result[rows], casting="unsafe")
    return result


def _row_blocks(n_rows: int) -> Iterator[slice]:
    return (slice(start, start + N_BLOCK_ROWS) for start in range(0, n_rows, N_BLOCK_ROWS))


def calc_logits(coeffs: Coeffs, X: Array, mean: Array | None, scale: Array | None) -> Array:
    """Return the logits of the rows of X, (n_samples, n_outputs), in float64, block by block."""
    dtype = np.dtype(str(coeffs.flat.dtype).removeprefix("torch."))
    logits = np.empty((len(X), coeffs.sizes[-1]))
    with torch.no_grad(), torch.autocast(coeffs.flat.device.type, enabled=False):
        for rows in _row_blocks(len(X)):
            indeps = to_tensor(convert_features(X[rows], mean, scale, dtype), coeffs.flat.device)
            logits[rows] = calc_layers(coeffs, indeps)[-1].cpu().numpy()
    return logits


def calc_probabilities(logits: Array, output: str, log: bool = False) -> Array:
    """Return probabilities, or their logarithms, (n_samples, n_classes or n_outputs).

    A single logistic output becomes two columns, each from its own logit, so that neither is rounded to 0 early.
    Probabilities are rounded into the open interval from 0 to 1, where sigmoid and softmax have all their values.
    """
    tensor = torch.from_numpy(logits)
    if output == "softmax":
        result = torch.log_softmax(tensor, -1) if log else OUTPUTS[output](tensor)
    else:
        tensor = torch.cat([-tensor, tensor], dim=-1) if tensor.shape[-1] == 1 else tensor
        result = torch.nn.functional.logsigmoid(tensor) if log else OUTPUTS[output](tensor)
    limits = np.finfo(logits.dtype)
    return result.numpy() if log else np.clip(result.numpy(), limits.tiny, 1 - limits.epsneg)


def coeffs_to_arrays(coeffs: Coeffs) -> tuple[list[Array], list[Array]]:
    """Return ``coefs_`` and ``intercepts_`` as MLPClassifier has them; zeros where there is no bias."""
    coefs = [weight.detach().cpu().numpy().copy() for weight in coeffs.weights]
    intercepts = [
        np.zeros(weight.shape[1], weight.dtype) if bias is None else bias.detach().cpu().numpy()[0].copy()
        for weight, bias in zip(coefs, coeffs.biases, strict=True)
    ]
    return coefs, intercepts


def arrays_to_coeffs(
    coefs: list[Array],
    intercepts: list[Array],
    *,
    activation: str,
    output: str,
    hidden_bias: bool,
    device: torch.device,
) -> Coeffs:
    """Return the network of ``coefs_`` and ``intercepts_``, as `coeffs_to_arrays` makes them."""
    sizes = (*(len(coef) for coef in coefs), coefs[-1].shape[1])
    biases = intercepts if hidden_bias else intercepts[-1:]
    flat = np.concatenate([array.ravel() for array in (*coefs, *biases)])
    return Coeffs(torch.from_numpy(flat).to(device), sizes, activation, output, hidden_bias)


@dataclass(frozen=True)
class Labels:
    """The classes of a problem, and the way between them and the network's outputs."""

    classes: Array  # (n_classes,); the column numbers if multilabel
    multilabel: bool

    @property
    def output(self) -> str:
        """The activation of the output: one for all classes, or one for each output."""
        return "softmax" if self.n_outputs > 1 and not self.multilabel else "logistic"

    @property
    def n_outputs(self) -> int:
        """The number of outputs: a single one tells two classes apart."""
        return len(self.classes) if self.multilabel or len(self.classes) > 2 else 1

    def encode(self, y: Array, dtype: np.dtype[Any]) -> Array:
        """Return targets of zeros and ones, (n_samples, n_outputs). ``y`` must hold known labels only."""
        if self.multilabel:
            return y.astype(dtype)
        codes = np.searchsorted(self.classes, y)
        if self.n_outputs == 1:
            return codes.astype(dtype)[:, np.newaxis]
        targets = np.zeros((len(y), self.n_outputs), dtype)
        targets[np.arange(len(y)), codes] = 1
        return targets

    def decode(self, logits: Array) -> Array:
        """Return the likeliest labels, (n_samples,), or (n_samples, n_outputs) zeros and ones if multilabel."""
        if self.multilabel:
            return (logits > 0).astype(int)
        codes = logits.argmax(axis=1) if self.n_outputs > 1 else (logits[:, 0] > 0).astype(int)
        return np.asarray(self.classes[codes])
