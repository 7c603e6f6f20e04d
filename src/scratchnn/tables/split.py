"""The split into training and validation samples. Weights give the same split as repeated samples."""

from dataclasses import replace

import numpy as np
from scipy import sparse

from .arrays import Array, to_host
from .table import Table


def split_validation(table: Table, fraction: float, seed: int) -> Array:
    """Return the share of the weight of each sample to hold out for validation, (n_samples,), from 0 to 1.

    A sample of weight k, a whole number, counts as k copies. The copies of each class are sorted at random, but equal
    samples stay together, and copies at equal distances are held out. So equal samples, or a sample of large weight,
    are split in proportion, for every order of the samples, and weights give the same split as repeated samples. If a
    weight is not a whole number, each sample is one copy.

    The split is stratified if ``y`` is one column of codes: at least one copy of each class is held out, and at least
    one stays for training, if the class has two or more.
    """
    weights = table.weights_or_ones
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
    ends = np.cumsum(counts) - (np.cumsum(n_copies) - n_copies)[codes]  # of the copies of each sample, in its class

    def count_before(positions: Array) -> Array:
        return np.floor((positions * n_held_out[codes] + offsets[codes]) / n_copies[codes])

    shares = np.empty(len(table))
    shares[order] = (count_before(ends) - count_before(ends - counts)) / counts
    return shares


def _count_held_out(n_copies: Array, fraction: float) -> Array:
    """Return how many copies of each class to hold out, (n_classes,). Raise ValueError if there are too few."""
    n_max = np.maximum(n_copies - 1, 0)
    n_wanted = max(np.ceil(fraction * n_copies.sum()), np.count_nonzero(n_max))
    if fraction <= 0 or not 2 <= n_wanted <= n_max.sum():
        raise ValueError(
            f"The validation set is too small: validation_fraction={fraction} of {n_copies.sum():.0f} samples must "
            "give both training and validation at least two samples, and one of each class that has two or more. (A "
            "sample of weight k counts as k.) Increase validation_fraction, pass X_val and y_val, or set "
            "early_stopping=False."
        )
    n_split = np.where(n_max > 0, n_copies, 0)
    # If the share of a class is less than one copy, one is held out. The other classes divide the rest.
    is_rare = (n_split > 0) & (n_split * n_wanted < n_split.sum())
    ends = np.cumsum(np.where(is_rare, 0, n_split))
    n_held_out = np.diff(np.rint(ends * (n_wanted - is_rare.sum()) / ends[-1]), prepend=0)
    return np.asarray(np.clip(n_held_out, np.minimum(n_max, 1), n_max))


def cut_table(table: Table, shares: Array) -> Table:
    """Return the samples with their weights times ``shares``, (n_samples,). Samples of share 0 are left out."""
    taken = table.take(shares > 0)
    if taken.sample_weights is None:
        return taken
    return replace(taken, sample_weights=taken.sample_weights * shares[shares > 0])


def _hash_rows(table: Table) -> Array:
    """Return a 64-bit hash of each sample: the same for equal X and y, in any order of the samples."""
    n_features = table.X.shape[1]
    columns = table.y[:, np.newaxis] if table.y.ndim == 1 else table.y
    multipliers = np.random.default_rng(0).integers(2**64, size=n_features + columns.shape[1], dtype=np.uint64) | 1
    keys = np.empty(len(table), np.uint64)
    for samples, block in table.split():
        keys[samples] = _mix(columns[samples]) @ multipliers[n_features:]
        if sparse.issparse(block):  # zeros add nothing
            mixed = sparse.csr_array((_mix(block.data), block.indices, block.indptr), block.shape)
        else:
            mixed = _mix(to_host(block))
        keys[samples] += mixed @ multipliers[:n_features]
    return keys


def _mix(values: Array) -> Array:
    # -0.0 becomes 0.0. The last bits are left out, as those of filled missing values vary with the order of samples.
    bits = ((values.astype(np.float64) + 0.0).view(np.uint64) + np.uint64(2**19)) & np.uint64(2**64 - 2**20)
    return bits ^ (bits >> np.uint64(32))  # the low half of whole numbers has only zeros
