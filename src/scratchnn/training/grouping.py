"""The choice of the runs that train together, as a stack."""

import copy
import math
from collections.abc import Sequence
from itertools import chain
from types import FunctionType
from typing import TypeVar

import torch
from torch import Tensor

from .run import TrainingRun

# Limits for the intermediate values of a stack for one batch. On a CPU, the values then stay in the cache.
N_STACK_BYTES = 2**20
N_STACK_BYTES_ON_DEVICE = 2**30
# A run may have this many times as many samples as the shortest run of its stack, plus this many. Folds differ by less,
# and padding with samples of weight 0 costs time.
PADDING_TOLERANCE = (1.02, 2)

T = TypeVar("T")


def make_stacks(runs: Sequence[TrainingRun]) -> list[list[TrainingRun]]:
    """Return the runs in stacks for `train`, of the sizes that train fastest."""
    return [stack for group in _group_by_shape(runs) for stack in _pack_stacks(_bundle_by_batches(group))]


def _group_by_shape(runs: Sequence[TrainingRun]) -> list[list[TrainingRun]]:
    """Return groups of runs that are of one kind and have about the same number of samples."""
    kinds: dict[object, list[list[TrainingRun]]] = {}
    for run in sorted(runs, key=lambda run: len(run.data)):
        groups = kinds.setdefault(_get_kind(run), [])
        ratio, n_more = PADDING_TOLERANCE
        if not groups or len(run.data) > ratio * len(groups[-1][0].data) + n_more:
            groups.append([])
        groups[-1].append(run)
    return list(chain(*kinds.values()))


def _bundle_by_batches(group: Sequence[TrainingRun]) -> list[list[TrainingRun]]:
    """Return the runs in bundles: lists of runs that draw the same batches, none too long for one stack."""
    by_batches: dict[object, list[TrainingRun]] = {}
    for run in group:
        by_batches.setdefault((id(run.data), run.generator.get_state().numpy().tobytes()), []).append(run)
    return [bundle for alike in by_batches.values() for bundle in _split_evenly(alike, count_models(alike[0]))]


def _pack_stacks(bundles: Sequence[list[TrainingRun]]) -> list[list[TrainingRun]]:
    """Return stacks of bundles of one length, so that every source of batches serves equally many models."""
    by_length: dict[int, list[list[TrainingRun]]] = {}
    for bundle in bundles:
        by_length.setdefault(len(bundle), []).append(bundle)
    return [
        list(chain(*packed))
        for length, alike in by_length.items()
        for packed in _split_evenly(alike, max(1, count_models(alike[0][0]) // length))
    ]


def explain_alone(run: TrainingRun) -> str | None:
    """Return why a run cannot train in a stack with others, or None if it can."""
    if run.hyperparameters.solver == "lbfgs":
        return "solver='lbfgs' trains one model at a time"
    if not isinstance(run.data.inputs, Tensor):
        return "sparse, memory-mapped and very large tables are read one model at a time"
    if not equals_its_copy(run.hyperparameters.loss):
        return "its loss does not equal its own copy: use a function, or a class with __eq__ and __hash__"
    return None


def equals_its_copy(loss: object) -> bool:
    """Return whether a loss equals its copy, which `sklearn.clone` makes for each fit of a search."""
    if isinstance(loss, str | FunctionType):
        return True
    try:
        return hash(loss) is not None and bool(copy.deepcopy(loss) == loss)
    except Exception:
        return False


def count_models(run: TrainingRun) -> int:
    """Return how many models like that of ``run`` fit in a stack: in a CPU's cache, or in a device's free memory."""
    flat = run.buffer.flat
    n_bytes = min(run.hyperparameters.batch_size, len(run.data)) * sum(run.buffer.sizes[1:]) * flat.itemsize
    if flat.device.type == "cpu":
        # The coefficients, gradients and moments of a large network fill the cache alone.
        return 1 if 4 * flat.nbytes > N_STACK_BYTES else max(1, N_STACK_BYTES // n_bytes)
    # About six times the values: each layer's, their gradients, and results of products. About eight times the
    # coefficients: those of run, snapshot and stack, gradients, and moments with copies.
    n_needed = 6 * n_bytes + 8 * flat.nbytes
    return max(1, min(N_STACK_BYTES_ON_DEVICE // n_bytes, count_device_memory(flat.device) // 2 // n_needed))


def count_device_memory(device: torch.device) -> int:
    """Return the bytes that PyTorch may still take of a CUDA device's memory, or has taken and does not use."""
    n_free, _ = torch.cuda.mem_get_info(device)
    return n_free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def _get_kind(run: TrainingRun) -> object:
    """Return a key that is equal for runs which may train in one stack."""
    if explain_alone(run) is not None:
        return id(run)
    params, buffer, validation = run.hyperparameters, run.buffer, run.validation
    return (
        (params.loss, params.solver, params.nesterovs_momentum, params.shuffle, params.dropout > 0),
        (params.beta_1, params.beta_2, params.epsilon) if params.solver == "adam" else None,
        (run.n_steps, params.batch_size if run.n_steps > 1 else None),
        (buffer.sizes, buffer.activation, buffer.output, buffer.n_biases),
        (buffer.flat.dtype, buffer.flat.device, params.precision),
        tuple(data and (data.inputs.shape[1], data.targets.shape[1]) for data in (run.data, validation)),
    )


def _split_evenly(items: list[T], most: int) -> list[list[T]]:
    """Return the items in as few lists as possible, of at most ``most`` items and of about one length."""
    n_lists = math.ceil(len(items) / most)
    return [items[len(items) * k // n_lists : len(items) * (k + 1) // n_lists] for k in range(n_lists)]
