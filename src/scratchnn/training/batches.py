"""Which rows come next: gathering, padding, and the data that models have in common."""

from collections.abc import Iterator, Sequence
from itertools import repeat

import torch
from torch import Tensor

from ..network import Batch
from .buffers import count_sizes
from .run import Data, RowSource, TrainingRun


def draw_order(run: TrainingRun) -> Tensor | None:
    """Draw the order in which an epoch takes the samples, (n_samples,), or None for the order they have."""
    n_samples = len(run.data.deps)
    if not run.settings.shuffle or run.settings.batch_size >= n_samples:
        return None
    return torch.randperm(n_samples, generator=run.generator, device="cpu").to(run.data.deps.device)


def find_sources(runs: Sequence[TrainingRun]) -> list[TrainingRun]:
    """Return a run for each data and seed, if they serve equal numbers of successive runs; else all runs.

    Runs with the same data and seed draw the same batches, so that drawing and gathering once serves them all.
    """
    states = [run.generator.get_state() for run in runs]
    firsts = [
        k
        for k, run in enumerate(runs)
        if k == 0 or run.data is not runs[k - 1].data or not torch.equal(states[k], states[k - 1])
    ]
    share = len(runs) // len(firsts)
    return [runs[k] for k in firsts] if firsts == list(range(0, len(runs), share)) else list(runs)


def stack_whole(datas: Sequence[Data]) -> Batch:
    """Return all samples as one batch."""
    sources = list({id(data): data for data in datas}.values())
    share = len(datas) // len(sources)
    if any(data is not sources[k // share] for k, data in enumerate(datas)):
        sources, share = list(datas), 1
    if len({len(source.deps) for source in sources}) > 1:
        return fill_up(sources, [None] * len(sources), 0, share=share)
    return stack_rows(sources, [slice(None)] * len(sources), share=share)


def stack_rows(datas: Sequence[Data], rows: Sequence[slice | Tensor], *, share: int) -> Batch:
    """Return rows of each of the data as a batch for ``share`` models each.

    Shapes are (models, n_rows, ...), or, where all models share one source, (n_rows, ...), and (n_sources, n_rows,
    n_features) for the inputs.
    """
    indeps = _stack_tensors([data.indeps for data in datas], rows, share)
    deps = _stack_tensors([data.deps for data in datas], rows, share)
    weights = None
    if any(data.weights is not None for data in datas):
        weights = _stack_tensors(
            [data.deps.new_ones(len(data.deps)) if data.weights is None else data.weights for data in datas],
            rows,
            share,
        )
    if len(datas) > 1 and share > 1:
        deps = deps.repeat_interleave(share, 0)
        weights = None if weights is None else weights.repeat_interleave(share, 0)
    return Batch(indeps, deps, weights)


def fill_up(datas: Sequence[Data], orders: Sequence[Tensor | None], start: int, *, share: int) -> Batch:
    """Return the rows from ``start`` on as a batch: where data have fewer than others, rows of weight 0 follow."""
    numbers = [len(data.deps) for data in datas]
    rows = []
    for data, order, number in zip(datas, orders, numbers, strict=True):
        own = (torch.arange(number, device=data.deps.device) if order is None else order)[start:]
        rows.append(torch.cat([own, own.new_zeros(max(numbers) - number)]))
    batch = stack_rows(datas, rows, share=share)
    counts = torch.tensor(numbers, device=batch.deps.device).sub_(start).repeat_interleave(share)
    is_own = torch.arange(max(numbers) - start, device=counts.device) < counts.unsqueeze(-1)
    weights = is_own.to(batch.deps.dtype) if batch.weights is None else batch.weights * is_own
    return batch._replace(weights=weights, counts=counts.to(batch.deps.dtype))


def _stack_tensors(sources: Sequence[Tensor | RowSource], rows: Sequence[slice | Tensor], share: int) -> Tensor:
    if len(sources) == 1:
        taken = take(sources[0], rows[0])
        return taken if share > 1 or taken.is_sparse else taken.unsqueeze(0)  # stacking one would copy it
    return torch.stack([take(source, part) for source, part in zip(sources, rows, strict=True)])


def take(source: Tensor | RowSource, rows: slice | Tensor) -> Tensor:
    """Return rows of a source, (n_rows, n_features)."""
    if not isinstance(source, Tensor):
        return source.take(rows)
    if isinstance(rows, slice):
        return source[rows]
    if source.shape[1:] == (1,):  # a column, as a vector, takes a third of the time
        return source.view(-1).index_select(0, rows).unsqueeze(-1)
    return source.index_select(0, rows)


def split_batch(batch: Batch, size: int) -> Iterator[Batch]:
    """Yield a batch in parts of ``size`` rows, the last of which may have fewer."""
    indeps, deps, weights, _, _ = batch
    sizes = count_sizes(deps.shape[-2], size)
    weight_parts = repeat(None) if weights is None else weights.split_with_sizes(sizes, -1)
    return map(Batch, indeps.split_with_sizes(sizes, -2), deps.split_with_sizes(sizes, -2), weight_parts)
