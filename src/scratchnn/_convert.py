"""The border between arrays and tensors: devices, dtypes, column scales, targets, coefficients."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy import sparse

from ._tables import Array, Features, Table, count_block_rows, count_values, get_device, to_tensor
from .network import OUTPUTS, Coeffs, Layers, calc_layers

LEAST_FROM_ONE = float(np.finfo(np.float64).epsneg)  # from 1 to the next smaller number
N_SMALL_ROWS = 100  # up to so many rows, dtype="auto" trains in the precision of X


def resolve_device(device: str | torch.device, X: Features = None) -> torch.device:
    """Return the device that the parameter means: "auto" is that of X if it is a tensor.

    Raises
    ------
    ValueError
        If it is none that PyTorch knows, or a CUDA device that is not there.
    """
    if isinstance(device, str) and device == "auto":
        if isinstance(X, torch.Tensor):
            return resolve_device(X.device)
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


def resolve_dtype(dtype: str, table: Table, solver: str) -> np.dtype[Any]:
    """Return the dtype to train in. "auto": that of X where it is float32, small, or for lbfgs; else float32."""
    if dtype != "auto":
        return np.dtype(dtype)
    own = np.dtype(str(table.X.dtype).removeprefix("torch."))
    return own if len(table) <= N_SMALL_ROWS or solver == "lbfgs" else np.dtype(np.float32)


class Rows:
    """Samples of a table that become tensors when they are taken.

    Tensors are of one dtype and device, with columns centred and scaled in double precision first (a ``mean`` of None
    does not centre, a ``scale`` of None does neither). Samples of a sparse table that is not centred stay sparse.
    """

    def __init__(
        self, table: Table, mean: Array | None, scale: Array | None, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.table, self.dtype, self.device = table, dtype, device
        source = get_device(table.X)
        self.factor = None if scale is None else torch.from_numpy(1 / scale).to(source)
        self.shift = None if mean is None or scale is None else torch.from_numpy(-mean / scale).to(source)
        self.shape = (len(table), table.X.shape[1])
        self.n_values = count_values(table.X) * len(table) // max(1, table.X.shape[0])

    def take(self, samples: slice | torch.Tensor) -> torch.Tensor:
        """Return samples, (n_taken, n_features), sparse in COO format if so."""
        block = self.table.get_features(samples if isinstance(samples, slice) else samples.cpu().numpy())
        if not sparse.issparse(block):
            return self._convert(to_tensor(block))
        if self.shift is not None:
            return self._convert(torch.from_numpy(block.toarray()))
        entries = block.tocoo()
        columns = torch.from_numpy(entries.col.astype(np.int64))
        values = torch.from_numpy(entries.data)
        if self.factor is not None:
            values = values * self.factor[columns]
        indices = torch.stack([torch.from_numpy(entries.row.astype(np.int64)), columns])
        return torch.sparse_coo_tensor(
            indices, values.to(self.dtype), block.shape, is_coalesced=True, check_invariants=False
        ).to(self.device)

    def convert(self, ones: bool) -> "torch.Tensor | Rows":
        """Return all samples as one tensor, without a copy if none is due, or as they are if they had better stay so.

        Those are sparse tables, and tables mapped into memory, which may be larger than it. With ``ones``, a tensor
        that must be a copy gets a column of ones at the end, for `Coeffs.with_ones`.
        """
        if sparse.issparse(self.table.X):
            return self
        dtype_name = str(self.dtype).removeprefix("torch.")
        is_mapped = _is_mapped(self.table.X)
        is_ready = self.factor is None and self.table.rows is None and str(self.table.X.dtype).endswith(dtype_name)
        if is_ready and (not is_mapped or self.table.X.flags.c_contiguous):
            return to_tensor(self.table.X).to(self.device)
        if is_mapped:
            return self
        n_samples, n_features = self.shape
        if isinstance(self.table.X, torch.Tensor):
            result = torch.empty((n_samples, n_features + ones), dtype=self.dtype, device=self.table.X.device)
        else:  # NumPy asks for large pages, which the system hands out several times faster
            result = torch.from_numpy(np.empty((n_samples, n_features + ones), dtype_name))
        for samples, block in self.table.split():
            result[samples, :n_features] = self._convert(to_tensor(block))
            result[samples, n_features:] = 1
        return result.to(self.device)

    def _convert(self, values: torch.Tensor) -> torch.Tensor:
        if self.shift is not None and self.factor is not None:
            values = torch.addcmul(self.shift, values.double(), self.factor)
        elif self.factor is not None:
            values = values * self.factor
        return values.to(self.device, self.dtype)


def _is_mapped(X: Array | None) -> bool:
    while isinstance(X, np.ndarray):
        if isinstance(X, np.memmap):
            return True
        X = X.base
    return False


def calc_logits(layers: Layers, X: Features, mean: Array | None, scale: Array | None) -> torch.Tensor:
    """Return the logits of the rows of X, (n_samples, n_outputs), in float64 and where X is, block by block."""
    weight = layers.weights[-1]
    logits = torch.empty(X.shape[0], weight.shape[-1], dtype=torch.float64, device=get_device(X))
    rows = Rows(Table(X, np.empty(len(logits), bool)), mean, scale, weight.dtype, weight.device)
    # The first weight has a row for each column; sparse rows are made dense only where they are centred.
    size = count_block_rows(X, max(map(len, layers.weights[1 if mean is None else 0 :]), default=1))
    with torch.inference_mode(), torch.autocast(weight.device.type, enabled=False):
        for start in range(0, len(logits), size):
            samples = slice(start, start + size)
            logits[samples] = calc_layers(layers, rows.take(samples))[-1]
    return logits


def calc_probabilities(logits: torch.Tensor, output: str, log: bool = False) -> torch.Tensor:
    """Return probabilities, or their logarithms, (n_samples, n_classes or n_outputs).

    A single logistic output becomes two columns, each from its own logit, so that neither is rounded to 0 early.
    Probabilities are rounded into the open interval from 0 to 1, where sigmoid and softmax have all their values.
    """
    if output == "logistic" and logits.shape[-1] == 1:
        logits = torch.cat([-logits, logits], dim=-1)
    if log:
        calc_logs = torch.nn.functional.logsigmoid if output == "logistic" else partial(torch.log_softmax, dim=-1)
        return calc_logs(logits)
    return OUTPUTS[output](logits).clamp_(torch.finfo(logits.dtype).tiny, 1 - LEAST_FROM_ONE)


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
    flat = np.concatenate([array.ravel() for array in (*coefs[::-1], *biases)])
    return Coeffs(torch.from_numpy(flat).to(device), sizes, activation, output, len(biases))


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

    def encode(self, y: Array) -> Array:
        """Return targets of zeros and ones, (n_samples, n_outputs). ``y`` must hold known labels only."""
        if self.multilabel:
            return y.astype(np.float32)
        codes = np.searchsorted(self.classes, y)
        if self.n_outputs == 1:
            return codes.astype(np.float32)[:, np.newaxis]
        targets = np.zeros((len(y), self.n_outputs), np.float32)
        targets[np.arange(len(y)), codes] = 1
        return targets

    def decode(self, logits: torch.Tensor) -> Array | torch.Tensor:
        """Return the likeliest labels, (n_samples,), or (n_samples, n_outputs) zeros and ones if multilabel.

        They are a tensor where the logits are, or an array if the labels are no numbers.
        """
        if self.multilabel:
            return (logits > 0).to(torch.int64)
        codes = logits.argmax(1) if self.n_outputs > 1 else (logits[:, 0] > 0).to(torch.int64)
        if logits.device.type == "cpu" or self.classes.dtype.kind not in "biuf":
            return np.asarray(self.classes[codes.cpu().numpy()])
        return to_tensor(self.classes).to(logits.device)[codes]
