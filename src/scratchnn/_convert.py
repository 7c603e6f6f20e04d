"""The border between arrays and tensors: devices, dtypes, column scales, targets, coefficients."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from scipy import sparse

from ._tables import (
    Array,
    Features,
    Table,
    count_block_rows,
    count_values,
    get_device,
    has_own_library,
    to_host,
    to_tensor,
)
from .network import OUTPUTS, Coeffs, Layers, calc_layers

LARGEST_INPUT = 1e100  # of a scaled column: products with coefficients and sums of them stay finite in float64
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
    does not centre, a ``scale`` of None does neither). Samples of a sparse table stay sparse, unless most columns are
    centred: those have an entry in every row. Of a sparse table, ``columns`` may name the ones to read; the others are
    left out.
    """

    def __init__(
        self,
        table: Table,
        mean: Array | None,
        scale: Array | None,
        dtype: torch.dtype,
        device: torch.device,
        columns: Array | None = None,
    ) -> None:
        self.table, self.dtype, self.device = table, dtype, device
        n_features = table.X.shape[1]
        self.shape = (len(table), n_features if columns is None else len(columns))
        self.positions: Array | None = None  # of the columns of X among those read, or -1
        if columns is not None:
            self.positions = np.full(n_features, -1)
            self.positions[columns] = np.arange(len(columns))
            mean, scale = (None if each is None else each[columns] for each in (mean, scale))
        source = get_device(table.X)
        self.factor = None if scale is None else torch.from_numpy(1 / scale).to(source)
        self.shift = None if mean is None or scale is None else torch.from_numpy(-mean / scale).to(source)
        is_sparse = sparse.issparse(table.X)
        self.centred = np.empty(0, int) if mean is None or not is_sparse else np.flatnonzero(mean)
        self.is_sparse = is_sparse and 2 * len(self.centred) <= self.shape[1]
        self.n_values = count_values(table.X) * len(table) // max(1, table.X.shape[0])

    def take(self, samples: slice | torch.Tensor) -> torch.Tensor:
        """Return samples, (n_taken, n_features), sparse in COO format if so."""
        block = self.table.get_features(samples if isinstance(samples, slice) else samples.cpu().numpy())
        if not sparse.issparse(block):
            return self._convert(to_tensor(block))
        if self.positions is not None:
            block = _select_columns(block, self.positions, self.shape[1])
        if not self.is_sparse:
            return self._convert(torch.from_numpy(block.toarray()))
        entries = self._scale_sparse(block).tocoo()
        indices = torch.from_numpy(np.stack([entries.row, entries.col]).astype(np.int64))
        values = torch.from_numpy(entries.data).to(self.dtype)
        return torch.sparse_coo_tensor(
            indices, values, block.shape, device="cpu", is_coalesced=True, check_invariants=False
        ).to(self.device)

    def _scale_sparse(self, block: Features) -> Features:
        """Return rows in CSR format, scaled, and with an entry in every row for the columns that are centred."""
        if self.factor is None:
            return block
        scaled = block.data * self.factor.numpy()[block.indices]
        block = sparse.csr_array((scaled, block.indices, block.indptr), block.shape)
        if self.shift is None or not len(self.centred):
            return block
        n_rows, n_centred = block.shape[0], len(self.centred)
        shifts = np.tile(self.shift.numpy()[self.centred], n_rows)
        ends = np.arange(n_rows + 1) * n_centred
        return block + sparse.csr_array((shifts, np.tile(self.centred, n_rows), ends), block.shape)

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


def _select_columns(block: Features, positions: Array, n_columns: int) -> Features:
    """Return rows in CSR format with the columns whose ``positions`` are not negative, at these positions."""
    columns = positions[block.indices]
    is_read = columns >= 0
    ends = np.concatenate([[0], np.cumsum(is_read)])[block.indptr]
    return sparse.csr_array((block.data[is_read], columns[is_read], ends), (block.shape[0], n_columns))


def _is_mapped(X: Array | None) -> bool:
    while isinstance(X, np.ndarray):
        if isinstance(X, np.memmap):
            return True
        X = X.base
    return False


def calc_logits(layers: Layers, X: Features, mean: Array | None, scale: Array | None) -> torch.Tensor:
    """Return the logits of the rows of X, (n_samples, n_outputs), in float64 and where X is, block by block.

    Where float32 is too narrow for a row, which may be far from all rows of training, its logits are found in float64.

    Raises
    ------
    ValueError
        If they are not finite even so, because coefficients are not, or are too large.
    """
    weight = layers.weights[-1]
    logits = torch.empty((X.shape[0], weight.shape[-1]), dtype=torch.float64, device=get_device(X))
    table = Table(X, np.empty(len(logits), bool))
    rows = Rows(table, mean, scale, weight.dtype, weight.device)
    # The first weight has a row for each column, which counts where rows are dense.
    n_centred = len(rows.centred)
    size = count_block_rows(X, max([n_centred, *map(len, layers.weights[1 if rows.is_sparse else 0 :])]))
    with torch.inference_mode(), torch.autocast(weight.device.type, enabled=False):
        for start in range(0, len(logits), size):
            samples = slice(start, start + size)
            block = calc_layers(layers, rows.take(samples))[-1]
            logits[samples] = block
            if not math.isfinite(block.sum()) and not torch.isfinite(block).all():  # all may be, and their sum not
                overflown = start + (~torch.isfinite(block).all(-1)).nonzero()[:, 0]
                wide_rows = Rows(table, mean, scale, torch.float64, weight.device)
                logits[overflown.to(logits.device)] = _calc_logits_in_double(layers, wide_rows, overflown).to(logits)
    return logits


def _calc_logits_in_double(layers: Layers, rows: Rows, samples: torch.Tensor) -> torch.Tensor:
    """Return the logits of samples, in float64, with inputs cut off where sums of their products would overflow."""
    inputs = rows.take(samples)
    if inputs.is_sparse:
        values = _cut_off(inputs.values())
        inputs = torch.sparse_coo_tensor(
            inputs.indices(), values, inputs.shape, device=values.device, is_coalesced=True, check_invariants=False
        )
    else:
        inputs = _cut_off(inputs)
    wide = replace(layers, weights=_to_double(layers.weights), biases=_to_double(layers.biases))
    logits = calc_layers(wide, inputs)[-1]
    if not torch.isfinite(logits).all():
        raise ValueError(
            "coefs_, intercepts_, mean_ and scale_ must be finite and not so large that predictions overflow, got "
            "logits that are not finite. Set them to finite numbers, or fit again."
        )
    return logits


def _cut_off(values: torch.Tensor) -> torch.Tensor:
    return values.clamp(-LARGEST_INPUT, LARGEST_INPUT)


def _to_double(tensors: Sequence[torch.Tensor | None]) -> list[Any]:
    return [None if each is None else each.double() for each in tensors]


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


def coeffs_to_arrays(
    coeffs: Coeffs, columns: Array | None = None, n_features: int = 0
) -> tuple[list[Array], list[Array]]:
    """Return ``coefs_`` and ``intercepts_`` as MLPClassifier has them; zeros where there is no bias.

    They share the memory of ``coeffs``, if that is on the CPU. Where the network reads only some ``columns``, those of
    the ``n_features`` that it does not read have zeros.
    """
    coefs = [weight.detach().cpu().numpy() for weight in coeffs.weights]
    intercepts = [
        np.zeros(weight.shape[1], weight.dtype) if bias is None else bias.detach().cpu().numpy()[0]
        for weight, bias in zip(coefs, coeffs.biases, strict=True)
    ]
    if columns is not None:
        read = coefs[0]
        coefs[0] = np.zeros((n_features, read.shape[1]), read.dtype)
        coefs[0][columns] = read
    return coefs, intercepts


def tensors_to_coeffs(
    weights: list[torch.Tensor],
    biases: list[torch.Tensor],
    *,
    activation: str,
    output: str,
    hidden_bias: bool,
) -> Coeffs:
    """Return a copy of weights, (fan_in, fan_out), and biases, (fan_out,), as one network, with or without biases."""
    sizes = (*(len(weight) for weight in weights), weights[-1].shape[1])
    biases = biases if hidden_bias else biases[-1:]
    flat = torch.cat([values.flatten() for values in (*weights[::-1], *biases)])
    return Coeffs(flat, sizes, activation, output, len(biases))


def read_coeffs(estimator: Any, device: torch.device) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return ``coefs_`` and ``intercepts_`` as tensors of one float type, whatever arrays or lists they were set to.

    Raises
    ------
    ValueError
        If they are not the weights and biases of one network.
    """
    weights = [_to_float_tensor(values, "coefs_").to(device) for values in estimator.coefs_]
    biases = [_to_float_tensor(values, "intercepts_").to(device) for values in estimator.intercepts_]
    dtype = reduce(torch.promote_types, (values.dtype for values in (*weights, *biases)))
    if any(values.dtype != dtype for values in (*weights, *biases)):
        weights, biases = ([values.to(dtype) for values in each] for each in (weights, biases))
    shapes = [tuple(weight.shape) for weight in weights]
    is_network = (
        all(len(shape) == 2 for shape in shapes)
        and all(first[1] == second[0] for first, second in pairwise(shapes))
        and [tuple(bias.shape) for bias in biases] == [shape[1:] for shape in shapes]
        and shapes[0][0] == estimator.n_features_in_
        and shapes[-1][1] == estimator.n_outputs_
    )
    if not is_network:
        raise ValueError(
            "coefs_ and intercepts_ must be the weights (fan_in, fan_out) and the biases (fan_out,) of layers that "
            f"lead from {estimator.n_features_in_} columns to {estimator.n_outputs_} outputs, got shapes {shapes} and "
            f"{[tuple(bias.shape) for bias in biases]}. Set all of them, or fit again."
        )
    return weights, biases


def read_scales(estimator: Any) -> tuple[Array | None, Array | None]:
    """Return ``mean_`` and ``scale_``, (n_features_in_,) each or None, as float64, whatever they were set to."""
    columns: list[Array | None] = []
    for name in ("mean_", "scale_"):
        values = getattr(estimator, name)
        if values is not None:
            values = np.asarray(to_host(values), np.float64)
            if values.shape != (estimator.n_features_in_,):
                raise ValueError(
                    f"{name} must have shape ({estimator.n_features_in_},), one number a column, got {values.shape}. "
                    "Set it so, or fit again."
                )
        columns.append(values)
    return columns[0], columns[1]


def _to_float_tensor(values: Any, name: str) -> torch.Tensor:
    """Return an array of any library, or lists, as a tensor of float32 or float64."""
    if not has_own_library(values):
        values = np.asarray(values)
        if values.dtype not in (np.float32, np.float64):
            try:
                values = values.astype(np.float32 if values.dtype == np.float16 else np.float64)
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"{name} must hold arrays of real numbers, got one of dtype {values.dtype}. Set it to a list with "
                    "an array for each layer."
                ) from error
    tensor = to_tensor(values)
    if tensor.dtype in (torch.float32, torch.float64):
        return tensor
    return tensor.to(torch.float32 if tensor.is_floating_point() else torch.float64)


def move_columns(flat: Array, sizes: tuple[int, ...], old: Array, new: Array) -> Array:
    """Return the buffer of a network that reads the columns ``old`` as one that reads ``new``: zeros for the others.

    ``sizes`` are the neurons per layer, and both lists of columns are in order.
    """
    start, width = sum(fan_in * fan_out for fan_in, fan_out in pairwise(sizes[1:])), sizes[1]
    stop = start + len(old) * width
    first = np.zeros((len(new), width), flat.dtype)
    first[np.searchsorted(new, old)] = flat[start:stop].reshape(-1, width)
    return np.concatenate([flat[:start], first.ravel(), flat[stop:]])


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
