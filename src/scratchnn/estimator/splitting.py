"""The validation split, which weights and repeated rows cut in proportion."""

from dataclasses import replace

import numpy as np
import torch
from scipy import sparse

from .tables import Array, Table


def split_validation(table: Table, fraction: float, seed: int) -> Array:
    """Return the share of each sample's weight to hold out for validation, (n_samples,), from 0 to 1.

    A row of whole weight k is k copies. The copies of a class lie side by side, equal rows next to each other and
    else in random order, and copies at equal distances are held out. So a group of equal rows, or a row of large
    weight, is cut in proportion, whatever the order of the rows, and weights and repetition give the same cut. Rows
    whose weights are not whole numbers are one copy each.

    The split is stratified where ``y`` is one column of codes: a class of two copies or more gives one at least, and
    keeps one for training.
    """
    weights = np.ones(len(table)) if table.weights is None else table.weights
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

    def count_before(places: Array) -> Array:
        return np.floor((places * n_held_out[codes] + offsets[codes]) / n_copies[codes])

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
    # A class whose part is less than one copy gives one, and the others share the rest.
    is_rare = (n_split > 0) & (n_split * n_wanted < n_split.sum())
    ends = np.cumsum(np.where(is_rare, 0, n_split))
    n_held_out = np.diff(np.rint(ends * (n_wanted - is_rare.sum()) / ends[-1]), prepend=0)
    return np.asarray(np.clip(n_held_out, np.minimum(n_most, 1), n_most))


def cut_table(table: Table, shares: Array) -> Table:
    """Return the samples with a share of their weight, (n_samples,). Those of share 0 are left out."""
    part = table.take(shares > 0)
    return part if part.weights is None else replace(part, weights=part.weights * shares[shares > 0])


def _hash_rows(table: Table) -> Array:
    """Return a 64-bit number for each sample, the same for equal rows of X and y, whatever the order of the rows."""
    n_features = table.X.shape[1]
    columns = table.y[:, np.newaxis] if table.y.ndim == 1 else table.y
    multipliers = np.random.default_rng(0).integers(2**64, size=n_features + columns.shape[1], dtype=np.uint64) | 1
    keys = np.empty(len(table), np.uint64)
    for samples, block in table.split():
        keys[samples] = _mix(columns[samples]) @ multipliers[n_features:]
        if sparse.issparse(block):  # zeros add nothing
            keys[samples] += (
                sparse.csr_array((_mix(block.data), block.indices, block.indptr), block.shape)
                @ multipliers[:n_features]
            )
        elif isinstance(block, torch.Tensor):  # the same numbers, where it is
            bits = (block.double() + 0.0).view(torch.int64)
            factors = torch.from_numpy(multipliers[:n_features].view(np.int64)).to(bits.device)
            sums = ((bits ^ ((bits >> 32) & 0xFFFFFFFF)) * factors).sum(-1)
            keys[samples] += sums.cpu().numpy().view(np.uint64)
        else:
            keys[samples] += _mix(block) @ multipliers[:n_features]
    return keys


def _mix(values: Array) -> Array:
    bits = (values.astype(np.float64) + 0.0).view(np.uint64)  # -0.0 becomes 0.0
    return bits ^ (bits >> np.uint64(32))  # whole numbers have only zeros in their low half
