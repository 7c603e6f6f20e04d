"""Classes and their targets, and the weights of classes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from sklearn.utils.class_weight import compute_class_weight

from .arrays import Array, to_tensor
from .summary import gather
from .table import Table

MAX_TARGETS = 2**22  # zeros and ones of all samples; with more of them, targets are class indices


@dataclass(frozen=True)
class Labels:
    """The classes, and the conversion between labels and outputs of the network."""

    classes: Array  # (n_classes,); if multilabel, the column indices
    multilabel: bool

    @property
    def output(self) -> str:
        """The activation of the output: "softmax" of all classes together, or "logistic" of each output alone."""
        return "softmax" if self.n_outputs > 1 and not self.multilabel else "logistic"

    @property
    def n_outputs(self) -> int:
        """The number of outputs: one per class or label, but only one for two classes."""
        return len(self.classes) if self.multilabel or len(self.classes) > 2 else 1

    def find_codes(self, y: Array) -> Array:
        """Return the class index of each label, (n_samples,), or ``y`` as it is if multilabel."""
        return y if self.multilabel else np.searchsorted(self.classes, y)

    def encode(self, y: Array) -> Array:
        """Return targets of zeros and ones, (n_samples, n_outputs). All labels in ``y`` must be known."""
        codes = self.find_codes(y)
        if self.output == "logistic":
            return codes.astype(np.float32).reshape(len(y), self.n_outputs)
        targets = np.zeros((len(y), self.n_outputs), np.float32)
        targets[np.arange(len(y)), codes] = 1
        return targets

    def encode_compact(self, y: Array) -> Array:
        """Return the targets of `encode`, or class indices, (n_samples, 1), if these need much less memory."""
        if self.output != "softmax" or len(y) * self.n_outputs <= MAX_TARGETS:
            return self.encode(y)
        return self.find_codes(y)[:, np.newaxis].astype(np.int64)

    def decode(self, logits: torch.Tensor) -> Array | torch.Tensor:
        """Return the most probable labels, (n_samples,); if multilabel, zeros and ones, (n_samples, n_outputs).

        The result is a tensor if multilabel, or if the logits are on another device than the CPU and the labels are
        numbers. Otherwise it is an array.
        """
        if self.multilabel:
            return (logits > 0).to(torch.int64)
        codes = logits.argmax(1) if self.n_outputs > 1 else (logits[:, 0] > 0).to(torch.int64)
        if logits.device.type == "cpu" or self.classes.dtype.kind not in "biuf":
            return np.asarray(self.classes[codes.cpu().numpy()])
        return to_tensor(self.classes).to(logits.device)[codes]


def find_labels(y: Array, multilabel: bool) -> Labels:
    """Return the labels of training targets. Raise ValueError if there are fewer than two classes."""
    labels = Labels(np.arange(y.shape[1]) if multilabel else _find_classes(y), multilabel)
    if len(labels.classes) < 2:
        raise ValueError(
            f"y must have at least two classes, got one class: {labels.classes}. Add samples of another class; if "
            "this is a fold of cross-validation, stratify."
        )
    return labels


def _find_classes(y: Array) -> Array:
    """Return the classes of the targets of all parts, sorted."""
    found = gather(np.unique(y))
    if len({each.dtype.kind in "biuf" for each in found}) > 1:
        raise ValueError(
            f"y must be of one type in all processes of data_parallel, got {[str(each.dtype) for each in found]}. "
            "Pass numbers or strings in all of them."
        )
    return np.unique(np.concatenate(found))


def check_known(y: Array, multilabel: bool, labels: Labels, name: str) -> None:
    """Raise ValueError if ``y``, the argument ``name``, has unknown labels, or another form than the labels."""
    if multilabel != labels.multilabel or (multilabel and y.shape[1] != len(labels.classes)):
        form = f"{len(labels.classes)} label columns" if labels.multilabel else "one column of class labels"
        raise ValueError(f"{name} must have the form of the training targets, {form}, got shape {y.shape}.")
    unknown = np.setdiff1d(y, labels.classes)
    if not multilabel and len(unknown):
        raise ValueError(
            f"{name} must hold no labels except the classes of training, {labels.classes}, got also {unknown}: `y` has "
            "classes not in `self.classes_`. Leave these samples out, or train with these classes."
        )


def make_class_weights(class_weight: Any, labels: Labels, table: Table) -> Callable[[Table], Table]:
    """Return a function that multiplies the weights of a table by class weights.

    The class weights follow from ``class_weight`` and the training ``table``. With multilabel targets, the weight of a
    sample is multiplied by the class weights of all its labels.
    """
    if class_weight is None or not len(table):
        return lambda unweighted: unweighted
    columns = _list_columns(table, labels)
    specs = _list_specs(class_weight, labels, len(columns))
    weights_of_columns = [
        _find_class_weights(spec, labels, column, table.sample_weights)
        for spec, column in zip(specs, columns, strict=True)
    ]

    def weigh(unweighted: Table) -> Table:
        weights = unweighted.weights_or_ones
        for column, (classes, class_weights) in zip(_list_columns(unweighted, labels), weights_of_columns, strict=True):
            codes = np.searchsorted(classes, column).clip(max=len(classes) - 1)
            weights = weights * np.where(classes[codes] == column, class_weights[codes], 1.0)
        return replace(unweighted, sample_weights=weights)

    return weigh


def _list_columns(table: Table, labels: Labels) -> list[Array]:
    return list(table.y.T) if labels.multilabel else [table.y]


def _list_specs(class_weight: Any, labels: Labels, n_columns: int) -> list[Any]:
    """Return the class weights that the parameter names for each column of targets, or raise ValueError."""
    if not labels.multilabel:
        if isinstance(class_weight, list):
            raise ValueError(
                f"class_weight must be a dict, 'balanced' or None for targets of one column, got {class_weight!r}. A "
                "list is for multilabel targets."
            )
        return [class_weight]
    specs = [class_weight] * n_columns if class_weight == "balanced" else class_weight
    if not isinstance(specs, list) or len(specs) != n_columns:
        raise ValueError(
            f"class_weight must be 'balanced' or a list of {n_columns} dicts, one for each label, got "
            f"{class_weight!r}. Pass one such as [{{0: 1, 1: 5}}, ...]."
        )
    return specs


def _find_class_weights(spec: Any, labels: Labels, y: Array, sample_weights: Array | None) -> tuple[Array, Array]:
    """Return the classes of a column of targets, and their weights, (n_classes,) both."""
    own, codes = np.unique(y, return_inverse=True)
    # Of each class in each part: its samples count as one sample with the sum of their weights.
    found, sums = map(np.concatenate, zip(*gather((own, np.bincount(codes, sample_weights))), strict=True))
    classes = np.unique(found) if labels.multilabel or spec == "balanced" else labels.classes
    try:
        class_weights = compute_class_weight(spec, classes=classes, y=found, sample_weight=sums)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"class_weight must give each class a number, got {spec!r}: {error}. Pass a dict such as {{0: 1, 1: 5}}, "
            "with no keys except the classes. A class without a key has weight 1."
        ) from error
    if not (np.isfinite(class_weights).all() and (class_weights >= 0).all()):
        raise ValueError(
            f"class_weight must have finite weights that are not negative, got {spec!r}. Use 0 to leave a class out."
        )
    return classes, class_weights
