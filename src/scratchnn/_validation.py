"""Checks of what users pass to `fit`, beyond those of scikit-learn, and the validation split."""

from dataclasses import replace
from numbers import Real
from typing import Any

import numpy as np
import torch
from scipy import sparse
from sklearn.model_selection import train_test_split
from sklearn.utils import check_array, column_or_1d
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets, type_of_target

from ._convert import Labels
from ._tables import Array, Features, Table


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
    remedy = "Use 0 for the rows to leave out, and a positive number for the others."
    if (checked < 0).any():
        raise ValueError(f"{name} must not have negative values, got {checked.min():g}. {remedy}")
    if not checked.any():
        raise ValueError(f"{name} must have a positive value, got only zeros. {remedy}")
    return checked


def weigh_classes(
    class_weight: Any, labels: Labels, table: Table, validation: Table | None
) -> tuple[Table, Table | None]:
    """Return both tables with the weights of classes, as ``class_weight`` and the training table give them, in theirs.

    With multilabel targets, the weights of a row's labels are multiplied.
    """
    if class_weight is None:
        return table, validation
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

    return weigh(table), None if validation is None else weigh(validation)


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
    """Choose the validation rows, stratified by class where ``y`` is one column of codes. Returns a mask, (n_samples,).

    Equal rows go to the same side, whatever their number and order: copies on both sides would flatter the
    validation score, and a row of weight 2 is split like two rows. A class with a single distinct row stays in
    training.
    """
    y = table.y
    keys = _hash_rows(table)
    _, first, groups = np.unique(keys, return_index=True, return_inverse=True)
    eligible, labels = np.arange(len(first)), None
    if y.ndim == 1:
        _, labels, counts = np.unique(y[first], return_inverse=True, return_counts=True)
        eligible = np.flatnonzero(counts[labels] > 1)
        labels = labels[eligible]
    n_strata = 1 if labels is None else len(np.unique(labels))
    n_validation = max(int(np.ceil(fraction * len(first))), n_strata)
    if fraction <= 0 or n_strata < 1 or len(eligible) - n_validation < n_strata or n_validation < 2:
        raise ValueError(
            f"The validation set is too small: validation_fraction={fraction} of {len(first)} distinct rows must leave "
            "two rows or more, of each class where there are classes, on either side. Increase validation_fraction, "
            "pass X_val and y_val, or set early_stopping=False."
        )
    _, chosen = train_test_split(eligible, test_size=n_validation, random_state=seed, stratify=labels)
    is_validation = np.zeros(len(first), dtype=bool)
    is_validation[chosen] = True
    return np.asarray(is_validation[groups])


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
