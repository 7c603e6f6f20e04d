"""The split into training and validation rows, in which weights count like repeated rows."""

from dataclasses import replace

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from .arrays import Array, Features, to_tensor
from .table import Table


def split_validation(table: Table, fraction: float, seed: int) -> Array:
    """Return the share of each sample's weight to hold out for validation, (n_samples,), from 0 to 1.

    A row of whole weight k counts as k copies. The copies of a class are lined up in random order, except that equal
    rows stay together, and copies at equal distances are held out. So equal rows, or a row of large weight, are split
    in proportion, for every order of the rows, and weights give the same split as repeated rows. If any weight is not a
    whole number, each row is one copy.

    The split is stratified if ``y`` is one column of codes: of a class of two copies or more, at least one is held out,
    and at least one stays for training.
    """
    weights = np.ones(len(table)) if table.sample_weights is None else table.sample_weights
    # Beyond 2**53 all floats are whole numbers.
    is_counted = bool((weights == np.floor(weights)).all()) and weights.sum() <= 2**53
    counts = weights if is_counted else np.ones(len(table))
    codes = table.y if table.y.ndim == 1 else np.zeros(len(table), np.int64)
    n_copies = np.bincount(codes, counts)
    n_held_out = _count_held_out(n_copies, fraction)
    generator = np.random.default_rng(seed)
    _, groups = np.unique(_hash_rows(table), return_inverse=True)
    ranks = generator.permutation(groups.max() + 1)[groups]
    offsets = generator.integers(np.maximum(n_copies, 1).astype(np.int64))
    order = np.lexsort((weights, ranks, codes))
    codes, counts = codes[order], counts[order]
    ends = np.cumsum(counts) - (np.cumsum(n_copies) - n_copies)[codes]  # of each row's copies among its class's

    def count_before(positions: Array) -> Array:
        return np.floor((positions * n_held_out[codes] + offsets[codes]) / n_copies[codes])

    shares = np.empty(len(table))
    shares[order] = (count_before(ends) - count_before(ends - counts)) / counts
    return shares


def _count_held_out(n_copies: Array, fraction: float) -> Array:
    """Return how many copies of each class to hold out, (n_classes,), or raise ValueError if they are too few."""
    n_most = np.maximum(n_copies - 1, 0)
    n_wanted = max(np.ceil(fraction * n_copies.sum()), np.count_nonzero(n_most))
    if fraction <= 0 or not 2 <= n_wanted <= n_most.sum():
        raise ValueError(
            f"The validation set is too small: validation_fraction={fraction} of {n_copies.sum():.0f} rows, one of "
            "weight k being k, must leave two rows or more, of each class where there are classes, on either side. "
            "Increase validation_fraction, pass X_val and y_val, or set early_stopping=False."
        )
    n_split = np.where(n_most > 0, n_copies, 0)
    # Of a class that is due less than one copy, one is held out; the rest is divided among the others.
    is_rare = (n_split > 0) & (n_split * n_wanted < n_split.sum())
    ends = np.cumsum(np.where(is_rare, 0, n_split))
    n_held_out = np.diff(np.rint(ends * (n_wanted - is_rare.sum()) / ends[-1]), prepend=0)
    return np.asarray(np.clip(n_held_out, np.minimum(n_most, 1), n_most))


def cut_table(table: Table, shares: Array) -> Table:
    """Return the samples with their weights times ``shares``, (n_samples,). Samples of share 0 are left out."""
    taken = table.take(shares > 0)
    return (
        taken
        if taken.sample_weights is None
        else replace(taken, sample_weights=taken.sample_weights * shares[shares > 0])
    )


def _hash_rows(table: Table) -> Array:
    """Return a 64-bit number for each sample, the same for equal rows of X and y, whatever the order of the rows."""
    n_features = table.X.shape[1]
    columns = (table.y[:, np.newaxis] if table.y.ndim == 1 else table.y).astype(np.float64)
    odd = np.random.default_rng(0).integers(2**64, size=n_features + columns.shape[1], dtype=np.uint64) | 1
    factors = torch.from_numpy(odd.view(np.int64))
    keys = np.empty(len(table), np.int64)
    for samples, block in table.split():
        keys[samples] = _hash(block, factors[:n_features]) + _hash(columns[samples], factors[n_features:])
    return keys.view(np.uint64)


def _hash(rows: Features, factors: Tensor) -> Array:
    """Return the sums of the bits of rows times ``factors``, (n_rows,), modulo 2**64."""
    if sparse.issparse(rows):  # zeros add nothing
        entries = sparse.csr_array((_mix(to_tensor(rows.data)).numpy(), rows.indices, rows.indptr), rows.shape)
        return np.asarray(entries @ factors.numpy())
    bits = _mix(to_tensor(rows))
    return (bits * factors.to(bits.device)).sum(-1).cpu().numpy()


def _mix(values: Tensor) -> Tensor:
    # -0.0 becomes 0.0. Without the last bits, in which what fills missing values differs with the order of the rows.
    bits = ((values.double() + 0.0).view(torch.int64) + 2**19) & -(2**20)
    return bits ^ ((bits >> 32) & 0xFFFFFFFF)  # whole numbers have only zeros in their low half
