"""Checks of what users pass to `fit`, beyond those of scikit-learn, and the validation split."""

from collections.abc import Callable
from dataclasses import replace
from numbers import Real
from typing import Any

import numpy as np
import torch
from scipy import sparse
from sklearn.utils import check_array, column_or_1d
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets, type_of_target

from ._convert import Labels
from ._tables import Array, Features, Table

WEIGHT_REMEDY = "Use 0 for the rows or classes to leave out, and a positive number for the others."


def check_hidden_layer_sizes(sizes: Any) -> tuple[int, ...]:
    """Return the parameter as a tuple of plain integers, or raise ValueError."""
    sizes = tuple(np.atleast_1d(np.asarray(sizes, dtype=object)).tolist())
    if not all(isinstance(size, int | np.integer) and not isinstance(size, bool) and size > 0 for size in sizes):
        raise ValueError(
            f"hidden_layer_sizes must be > 0, whole numbers, one for each hidden layer, got {sizes}. Use for example "
            "(100,), or () for no hidden layer."
        )
    return tuple(int(size) for size in sizes)


def check_targets(y: Any) -> tuple[Array, bool]:
    """Return targets as an array, (n_samples,) or (n_samples, n_outputs), and whether they are multilabel."""
    kind = type_of_target(y, input_name="y")
    if kind == "multilabel-indicator":
        return (y.toarray() if sparse.issparse(y) else np.asarray(y)), True
    if kind == "multiclass-multioutput":
        raise ValueError(
            f"y must be one label per row, or 0 and 1 for each of several labels, got {kind} of shape {np.shape(y)}. "
            "Fit one classifier per column with sklearn.multioutput.MultiOutputClassifier."
        )
    if kind not in ("binary", "multiclass"):
        check_classification_targets(y)  # raises
    return column_or_1d(y, warn=True), False


def find_labels(y: Array, multilabel: bool) -> Labels:
    """Return the labels of training targets, or raise ValueError if there is nothing to tell apart."""
    labels = Labels(np.arange(y.shape[1]) if multilabel else np.unique(y), multilabel)
    if len(labels.classes) < 2:
        raise ValueError(
            f"y must have at least two classes, got one class: {labels.classes}. Add rows of another class; if this is "
            "a fold of cross-validation, stratify."
        )
    return labels


def check_known(y: Array, multilabel: bool, labels: Labels, name: str) -> None:
    """Raise ValueError if ``y``, called ``name``, has labels that ``labels`` has not, or another form."""
    if multilabel != labels.multilabel or (multilabel and y.shape[1] != len(labels.classes)):
        form = f"{len(labels.classes)} label columns" if labels.multilabel else "one column of class labels"
        raise ValueError(f"{name} must have the form of the training targets, {form}, got shape {y.shape}.")
    unknown = np.setdiff1d(y, labels.classes)
    if not multilabel and len(unknown):
        raise ValueError(
            f"{name} must hold no labels but the classes of training, {labels.classes}, got also {unknown}: `y` has "
            "classes not in `self.classes_`. Leave these rows out, or train with these classes."
        )


def check_weights(weights: Any, n_samples: int, name: str) -> Array | None:
    """Return the row weights as float64 of shape (n_samples,), or None for None."""
    if weights is None:
        return None
    if isinstance(weights, Real):
        weights = np.full(n_samples, weights)
    checked: Array = check_array(weights, ensure_2d=False, dtype=np.float64, input_name=name)
    if checked.shape != (n_samples,):
        raise ValueError(
            f"{name} must have shape ({n_samples},), one weight a row, got {checked.shape}. Pass one each."
        )
    if (checked < 0).any():
        raise ValueError(f"{name} must not have negative values, got {checked.min():g}. {WEIGHT_REMEDY}")
    return checked


def leave_out_rows(table: Table, name: str, *, may_be_all: bool = False) -> Table:
    """Return the rows of positive weight.

    Raises ValueError, which says that ``name`` leaves out all rows, unless that ``may_be_all``.
    """
    if table.weights is None or table.weights.all():
        return table
    if not (may_be_all or table.weights.any()):
        raise ValueError(f"{name} must have a positive value, got only zeros. {WEIGHT_REMEDY}")
    return table.take(table.weights > 0)


def make_class_weights(class_weight: Any, labels: Labels, table: Table) -> Callable[[Table], Table]:
    """Return what multiplies a table's weights by those of classes, as ``class_weight`` and a table of training say.

    With multilabel targets, the weights of a row's labels are multiplied.
    """
    if class_weight is None or not len(table):
        return lambda rows: rows
    if labels.multilabel:
        columns = list(table.y.T)
        specs = [class_weight] * len(columns) if class_weight == "balanced" else class_weight
        if not isinstance(specs, list) or len(specs) != len(columns):
            raise ValueError(
                f"class_weight must be 'balanced' or a list of {len(columns)} dicts, one for each label, got "
                f"{class_weight!r}. Pass one such as [{{0: 1, 1: 5}}, ...]."
            )
    elif isinstance(class_weight, list):
        raise ValueError(
            f"class_weight must be a dict, 'balanced' or None for targets of one column, got {class_weight!r}. A "
            "list is for multilabel targets."
        )
    else:
        columns, specs = [table.y], [class_weight]
    of_labels = []
    for column, spec in zip(columns, specs, strict=True):
        classes = np.unique(column) if labels.multilabel or spec == "balanced" else labels.classes
        if isinstance(spec, dict):
            _check_keys(spec, classes)
        of_classes = compute_class_weight(spec, classes=classes, y=column, sample_weight=table.weights)
        if not (np.isfinite(of_classes).all() and (of_classes >= 0).all()):
            raise ValueError(
                f"class_weight must have finite weights that are not negative, got {spec!r}. Use 0 to leave a class "
                "out."
            )
        of_labels.append((classes, of_classes))

    def weigh(rows: Table) -> Table:
        weights = np.ones(len(rows)) if rows.weights is None else rows.weights
        for column, (classes, of_classes) in zip(rows.y.T if labels.multilabel else [rows.y], of_labels, strict=True):
            places = np.searchsorted(classes, column).clip(max=len(classes) - 1)
            weights = weights * np.where(classes[places] == column, of_classes[places], 1.0)
        return replace(rows, weights=weights)

    return weigh


def describe_gap(table: Table, labels: Labels) -> str | None:
    """Return what the rows of positive weight lack that a score may need, as the end of a sentence; None if nothing."""
    y = table.y if table.weights is None else table.y[table.weights > 0]
    if labels.multilabel:
        constant = np.flatnonzero((y == y[:1]).all(0))
        return f"have only one value of the labels {constant}" if len(constant) else None
    missing = np.setdiff1d(labels.classes, y)
    return f"lack the classes {missing}" if len(missing) else None


def _check_keys(weights: dict[Any, float], classes: Array) -> None:
    """Raise ValueError if weights are of other labels in the place of classes. A fold may lack a class that has one."""
    missing = [label for label in classes.tolist() if label not in weights]
    unknown = [label for label in weights if label not in classes.tolist()]
    if missing and unknown:
        raise ValueError(
            f"class_weight must have no keys but the classes, got {unknown}, while {missing} are not in class_weight. "
            "Rename these keys, or leave them out: a class without a key has weight 1."
        )


def make_canonical(X: Features) -> Features:
    """Return X; if it is sparse, with every entry once and in order, in a copy if it was not so."""
    if sparse.issparse(X) and not X.has_canonical_format:
        X = X.copy()
        X.sum_duplicates()
        if not np.isfinite(X.data).all():
            raise ValueError("X must be finite, got entries of one place whose sum is not. Scale X, or leave them out.")
    return X


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
