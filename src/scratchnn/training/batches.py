"""The minibatches of an epoch: order, gathering, padding and dropout masks, once for models with the same data."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import repeat

import torch
from torch import Tensor

from ..batch import Batch
from .buffers import count_sizes, make_column
from .run import Data, RowSource, TrainingRun

N_GATHERED_BYTES = 2**20  # minibatches of about this size together are gathered at once, and stay in a CPU's cache


class BatchSource:
    """The minibatches of runs that train together.

    Runs with the same data and seed draw the same batches, so one of them, the source, draws and gathers for all. Each
    of the ``sources`` serves ``models_per_source`` successive runs, of which it is the first.
    """

    def __init__(self, runs: Sequence[TrainingRun]) -> None:
        self.runs = runs
        self.sources = _find_sources(runs)
        self.models_per_source = len(runs) // len(self.sources)
        self.generators = [self.sources[model // self.models_per_source].generator for model in range(len(runs))]
        self.dropout = any(run.hyperparameters.dropout for run in runs)
        self.keep_rates = 1 - make_column([run.hyperparameters.dropout for run in runs], runs[0].buffer.flat).unsqueeze(
            -1
        )

    def draw_batches(self) -> Iterator[Batch]:
        """Yield the minibatches of an epoch, with dropout masks if there is dropout."""
        for rows, size, n_own in self._gather():
            for batch in _split_batch(rows, size):
                yield batch._replace(masks=self._draw_masks(batch, n_own)) if self.dropout else batch

    def copy_generator_states(self) -> None:
        """Set the generator of each run, in place, to the state of its source's generator."""
        for run, generator in zip(self.runs, self.generators, strict=True):
            if run.generator is not generator:
                run.generator.set_state(generator.get_state())

    def _gather(self) -> Iterator[tuple[Batch, int, list[int] | None]]:
        """Yield successive minibatches gathered together, which takes as long as gathering one, and their size.

        If samples of weight 0 pad a minibatch, it is gathered alone, and the last value counts the samples of each
        source in it. Otherwise that value is None.
        """
        datas = [run.data for run in self.sources]
        orders = [draw_order(run) for run in self.sources]
        counts = [len(data) for data in datas]
        n_samples, size = max(counts), max(run.hyperparameters.batch_size for run in self.sources)
        is_padded = min(counts) < n_samples
        if size >= n_samples:
            yield self._whole_batch, size, counts if is_padded else None
            return
        n_gathered = _count_gathered(datas, size)
        end = (n_samples - 1) // size * size if is_padded else n_samples
        for start in range(0, end, n_gathered):
            rows = slice(start, min(start + n_gathered, end))
            rows_of_sources = [rows if order is None else order[rows] for order in orders]
            yield _stack_rows(datas, rows_of_sources, models_per_source=self.models_per_source), size, None
        if is_padded:
            last = _stack_padded(datas, orders, end, models_per_source=self.models_per_source)
            yield last, size, [count - end for count in counts]

    @cached_property
    def _whole_batch(self) -> Batch:
        return stack_whole([run.data for run in self.runs])

    def _draw_masks(self, batch: Batch, n_own: list[int] | None) -> list[Tensor]:
        """Draw dropout's factors for each hidden layer, (models, n_samples, width): 0, or 1 / (1 - rate)."""
        n_samples = batch.deps.shape[-2]
        n_own = n_own or [n_samples] * len(self.sources)
        masks = []
        for width in self.runs[0].buffer.sizes[1:-1]:
            draws = torch.ones(len(self.sources), n_samples, width, dtype=torch.float32, device="cpu")
            for draw, run, n in zip(draws, self.sources, n_own, strict=True):
                draw[:n].uniform_(generator=run.generator)
            draws = draws.to(self.keep_rates.device).repeat_interleave(self.models_per_source, 0)
            masks.append((draws < self.keep_rates).to(self.keep_rates.dtype).div_(self.keep_rates))
        return masks


def draw_order(run: TrainingRun) -> Tensor | None:
    """Draw the order in which an epoch takes the samples, (n_samples,). None is the order of the data."""
    n_samples = len(run.data)
    if not run.hyperparameters.shuffle or run.hyperparameters.batch_size >= n_samples:
        return None
    return torch.randperm(n_samples, generator=run.generator, device="cpu").to(run.data.targets.device)


def _find_sources(runs: Sequence[TrainingRun]) -> list[TrainingRun]:
    """Return one run for each pair of data and seed, if each pair has equally many successive runs; else all runs."""
    generator_states = [run.generator.get_state() for run in runs]
    firsts = [
        model
        for model, run in enumerate(runs)
        if model == 0
        or run.data is not runs[model - 1].data
        or not torch.equal(generator_states[model], generator_states[model - 1])
    ]
    models_per_source = len(runs) // len(firsts)
    is_even = firsts == list(range(0, len(runs), models_per_source))
    return [runs[model] for model in firsts] if is_even else list(runs)


def _count_gathered(datas: Sequence[Data], size: int) -> int:
    """Return how many samples are gathered together, a multiple of the ``size`` of a minibatch."""
    inputs = datas[0].inputs
    if not isinstance(inputs, Tensor):
        return size
    return size * max(1, N_GATHERED_BYTES // (size * len(datas) * inputs.shape[-1] * inputs.itemsize))


def stack_whole(datas: Sequence[Data]) -> Batch:
    """Return all samples of each model's data as one batch. Successive models with the same data get one copy."""
    sources = list({id(data): data for data in datas}.values())
    models_per_source = len(datas) // len(sources)
    if any(data is not sources[model // models_per_source] for model, data in enumerate(datas)):
        sources, models_per_source = list(datas), 1
    if len({len(source) for source in sources}) > 1:
        return _stack_padded(sources, [None] * len(sources), 0, models_per_source=models_per_source)
    return _stack_rows(sources, [slice(None)] * len(sources), models_per_source=models_per_source)


def _stack_rows(datas: Sequence[Data], rows: Sequence[slice | Tensor], *, models_per_source: int) -> Batch:
    """Return ``rows`` of the data of each source as a batch.

    Targets and weights are (models, n_rows, ...), and inputs (n_sources, n_rows, n_features). If all models have one
    source, none of them has the first axis.
    """
    inputs = _stack_tensors([data.inputs for data in datas], rows, models_per_source)
    targets = _stack_tensors([data.targets for data in datas], rows, models_per_source)
    sample_weights = None
    if any(data.sample_weights is not None for data in datas):
        sample_weights = _stack_tensors(_list_weights(datas), rows, models_per_source)
    if len(datas) > 1 and models_per_source > 1:
        targets = targets.repeat_interleave(models_per_source, 0)
        sample_weights = None if sample_weights is None else sample_weights.repeat_interleave(models_per_source, 0)
    return Batch(inputs, targets, sample_weights)


def _list_weights(datas: Sequence[Data]) -> list[Tensor]:
    """Return the weights of each data, ones where it has none. One of them has weights."""
    like = next(data.sample_weights for data in datas if data.sample_weights is not None)
    return [like.new_ones(len(data)) if data.sample_weights is None else data.sample_weights for data in datas]


def _stack_padded(
    datas: Sequence[Data], orders: Sequence[Tensor | None], start: int, *, models_per_source: int
) -> Batch:
    """Return the samples from ``start`` on as a batch. Samples of weight 0 pad the sources that have fewer."""
    counts = [len(data) for data in datas]
    rows = []
    for data, order, count in zip(datas, orders, counts, strict=True):
        own = (torch.arange(count, device=data.targets.device) if order is None else order)[start:]
        rows.append(torch.cat([own, own.new_zeros(max(counts) - count)]))
    batch = _stack_rows(datas, rows, models_per_source=models_per_source)
    n_samples = make_column(counts, batch.indeps).sub_(start).repeat_interleave(models_per_source, 0)
    is_own = torch.arange(max(counts) - start, device=n_samples.device) < n_samples
    sample_weights = is_own.to(batch.indeps.dtype) if batch.sample_weights is None else batch.sample_weights * is_own
    return batch._replace(sample_weights=sample_weights, n_samples=n_samples)


def _stack_tensors(
    tensors: Sequence[Tensor | RowSource], rows: Sequence[slice | Tensor], models_per_source: int
) -> Tensor:
    if len(tensors) == 1:
        taken = take(tensors[0], rows[0])
        return taken if models_per_source > 1 or taken.is_sparse else taken.unsqueeze(0)  # stacking one would copy it
    return torch.stack([take(tensor, own) for tensor, own in zip(tensors, rows, strict=True)])


def take(values: Tensor | RowSource, rows: slice | Tensor) -> Tensor:
    """Return the ``rows`` of ``values``, as a tensor of the same shape beyond the first axis."""
    if not isinstance(values, Tensor):
        return values.take(rows)
    if isinstance(rows, slice):
        return values[rows]
    if values.shape[1:] == (1,):  # a column is gathered as a vector in a third of the time
        return values.view(-1).index_select(0, rows).unsqueeze(-1)
    return values.index_select(0, rows)


def _split_batch(batch: Batch, size: int) -> Iterator[Batch]:
    """Yield the minibatches of ``size`` samples that were gathered together. The last may have fewer."""
    n_samples = batch.deps.shape[-2]
    if n_samples <= size:
        return iter([batch])
    sizes = count_sizes(n_samples, size)
    weights = batch.sample_weights
    split_weights = repeat(None) if weights is None else weights.split_with_sizes(sizes, -1)
    return map(Batch, batch.indeps.split_with_sizes(sizes, -2), batch.deps.split_with_sizes(sizes, -2), split_weights)
