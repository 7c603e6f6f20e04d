"""Which runs train together as a stack, and how many."""

import math
from collections.abc import Sequence
from itertools import chain
from typing import TypeVar

from torch import Tensor

from .run import TrainingRun

N_STACK_BYTES = {"cpu": 2**22, "cuda": 2**30}  # of a stack's values of one batch
# Runs of a stack may differ in samples by this ratio, and this many rows more. Folds differ by less, and rows of weight
# 0, which fill up the shorter tables, cost time.
FILL_TOLERANCE = (1.02, 2)

T = TypeVar("T")


def make_stacks(runs: Sequence[TrainingRun]) -> list[list[TrainingRun]]:
    """Deal the runs out to stacks that `train` takes, each of as many models as pay."""
    return [stack for group in _group_by_shape(runs) for stack in _pack_stacks(_group_by_batches(group))]


def _group_by_shape(runs: Sequence[TrainingRun]) -> list[list[TrainingRun]]:
    """Return the runs in groups of one kind, and of about one number of samples."""
    kinds: dict[object, list[list[TrainingRun]]] = {}
    for run in sorted(runs, key=lambda run: len(run.data.deps)):
        groups = kinds.setdefault(_get_kind(run), [])
        if not groups or not _can_fill_up(groups[-1][0], len(run.data.deps)):
            groups.append([])
        groups[-1].append(run)
    return list(chain(*kinds.values()))


def _can_fill_up(run: TrainingRun, n_samples: int) -> bool:
    """Return whether a run, with rows of weight 0 added to its samples, trains well with one of ``n_samples``."""
    ratio, n_rows = FILL_TOLERANCE
    return n_samples <= ratio * len(run.data.deps) + n_rows


def _group_by_batches(group: Sequence[TrainingRun]) -> list[list[TrainingRun]]:
    """Return the runs in lists that draw the same batches, none of them longer than pays."""
    sources: dict[object, list[TrainingRun]] = {}
    for run in group:
        sources.setdefault((id(run.data), run.generator.get_state().numpy().tobytes()), []).append(run)
    return [part for alike in sources.values() for part in _deal(alike, count_models(alike[0]))]


def _pack_stacks(parts: Sequence[list[TrainingRun]]) -> list[list[TrainingRun]]:
    """Return stacks of lists of one length, so that each source of batches serves as many models as the others."""
    by_length: dict[int, list[list[TrainingRun]]] = {}
    for part in parts:
        by_length.setdefault(len(part), []).append(part)
    return [
        list(chain(*packed))
        for length, alike in by_length.items()
        for packed in _deal(alike, max(1, count_models(alike[0][0]) // length))
    ]


def explain_alone(run: TrainingRun) -> str | None:
    """Return why a run cannot be one of a stack, or None if it can."""
    if run.settings.solver == "lbfgs":
        return "solver='lbfgs' trains one model at a time"
    if not isinstance(run.data.indeps, Tensor):
        return "sparse or mapped rows are taken one model at a time"
    return None


def count_models(run: TrainingRun) -> int:
    """Return how many models such as the run's train well together: their values of a batch stay in the cache."""
    n_values = min(run.settings.batch_size, len(run.data.deps)) * sum(run.buffer.sizes[1:])
    flat = run.buffer.flat
    return max(1, N_STACK_BYTES[flat.device.type] // (n_values * flat.itemsize))


def _get_kind(run: TrainingRun) -> object:
    """Return what runs of one stack have in common."""
    if explain_alone(run) is not None:
        return id(run)
    settings, buffer, validation = run.settings, run.buffer, run.validation
    n_steps = math.ceil(len(run.data.deps) / settings.batch_size)
    return (
        (settings.loss, settings.solver, settings.nesterovs_momentum, settings.shuffle, settings.dropout > 0),
        (n_steps, settings.batch_size if n_steps > 1 else None),
        (buffer.sizes, buffer.activation, buffer.output, buffer.n_biases, buffer.flat.dtype, buffer.flat.device),
        (run.data.indeps.shape[1], None if validation is None else validation.indeps.shape[1]),
    )


def _deal(items: list[T], most: int) -> list[list[T]]:
    """Return the items in as few lists of at most so many as there must be, of about one length."""
    n_lists = math.ceil(len(items) / most)
    return [items[len(items) * k // n_lists : len(items) * (k + 1) // n_lists] for k in range(n_lists)]
