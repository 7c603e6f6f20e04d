"""Which rows come next: orders, gathering, padding, dropout masks, and the data that models have in common."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import repeat

import torch
from torch import Tensor

from ..batch import Batch
from .buffers import count_sizes, make_column
from .run import Data, RowSource, TrainingRun

N_GATHERED_BYTES = 2**20  # what minibatches are gathered at a time: it stays in the cache


class BatchSource:
    """The minibatches of runs that train together.

    Runs with the same data and seed draw the same batches, so that drawing and gathering once serves them all:
    ``sources`` are the runs that do so, each for ``models_per_source`` successive runs.
    """

    def __init__(self, runs: Sequence[TrainingRun]) -> None:
        self.runs = runs
        self.sources = _find_sources(runs)
        self.models_per_source = len(runs) // len(self.sources)
        self.keep_rates = 1 - make_column([run.settings.dropout for run in runs], runs[0].buffer.flat).unsqueeze(-1)

    def draw_batches(self) -> Iterator[Batch]:
        """Yield the minibatches of an epoch."""
        has_dropout = self.runs[0].settings.dropout > 0
        for batch in self._gather_batches():
            yield batch._replace(masks=self._draw_masks(batch)) if has_dropout else batch

    def copy_generator_states(self) -> None:
        """Give all runs, in place, the state of the generator that drew for them."""
        for model, run in enumerate(self.runs):
            source = self.sources[model // self.models_per_source]
            if run is not source:
                run.generator.set_state(source.generator.get_state())

    def _gather_batches(self) -> Iterator[Batch]:
        """Yield batches without masks. Several are gathered at a time, which costs little more than one."""
        datas = [run.data for run in self.sources]
        orders = [draw_order(run) for run in self.sources]
        numbers = [len(data.deps) for data in datas]
        n_samples, size = max(numbers), max(run.settings.batch_size for run in self.sources)
        if size >= n_samples:
            yield self._whole_batch
            return
        n_rows = _count_gathered_rows(datas, size)
        # The last batch is one of its own if it must be filled up.
        end = n_samples if min(numbers) == n_samples else (n_samples - 1) // size * size
        for start in range(0, end, n_rows):
            rows = slice(start, min(start + n_rows, end))
            parts = [rows if order is None else order[rows] for order in orders]
            gathered = _stack_rows(datas, parts, models_per_source=self.models_per_source)
            yield from [gathered] if n_rows == size else _split_batch(gathered, size)
        if end < n_samples:
            yield _fill_up(datas, orders, end, models_per_source=self.models_per_source)

    @cached_property
    def _whole_batch(self) -> Batch:
        return stack_whole([run.data for run in self.runs])

    def _draw_masks(self, batch: Batch) -> list[Tensor]:
        """Draw dropout's factors for each hidden layer, (models, n_rows, width): 0, or 1 / (1 - rate)."""
        n_rows = batch.deps.shape[-2]
        n_own = [n_rows] * len(self.sources)
        if isinstance(batch.n_samples, Tensor):
            n_own = [int(number) for number in batch.n_samples[:: self.models_per_source, 0].tolist()]
        masks = []
        for width in self.runs[0].buffer.sizes[1:-1]:
            draws = torch.ones(len(self.sources), n_rows, width, dtype=torch.float32, device="cpu")
            for draw, run, n in zip(draws, self.sources, n_own, strict=True):
                draw[:n].uniform_(generator=run.generator)
            draws = draws.to(self.keep_rates.device).repeat_interleave(self.models_per_source, 0)
            masks.append((draws < self.keep_rates).to(self.keep_rates.dtype).div_(self.keep_rates))
        return masks


def draw_order(run: TrainingRun) -> Tensor | None:
    """Draw the order in which an epoch takes the samples, (n_samples,), or None for the order they have."""
    n_samples = len(run.data.deps)
    if not run.settings.shuffle or run.settings.batch_size >= n_samples:
        return None
    return torch.randperm(n_samples, generator=run.generator, device="cpu").to(run.data.deps.device)


def _find_sources(runs: Sequence[TrainingRun]) -> list[TrainingRun]:
    """Return a run for each data and seed, if they serve equal numbers of successive runs; else all runs."""
    states = [run.generator.get_state() for run in runs]
    firsts = [
        model
        for model, run in enumerate(runs)
        if model == 0 or run.data is not runs[model - 1].data or not torch.equal(states[model], states[model - 1])
    ]
    models_per_source = len(runs) // len(firsts)
    is_even = firsts == list(range(0, len(runs), models_per_source))
    return [runs[model] for model in firsts] if is_even else list(runs)


def _count_gathered_rows(datas: Sequence[Data], size: int) -> int:
    """Return how many rows are gathered at a time, a multiple of the ``size`` of a batch."""
    indeps = datas[0].indeps
    if not isinstance(indeps, Tensor):
        return size
    row_bytes = len(datas) * indeps.shape[-1] * indeps.itemsize
    return size * max(1, N_GATHERED_BYTES // (size * row_bytes))


def stack_whole(datas: Sequence[Data]) -> Batch:
    """Return all samples of each model's data as one batch. Data that successive models have in common serve as one."""
    sources = list({id(data): data for data in datas}.values())
    models_per_source = len(datas) // len(sources)
    if any(data is not sources[model // models_per_source] for model, data in enumerate(datas)):
        sources, models_per_source = list(datas), 1
    if len({len(source.deps) for source in sources}) > 1:
        return _fill_up(sources, [None] * len(sources), 0, models_per_source=models_per_source)
    return _stack_rows(sources, [slice(None)] * len(sources), models_per_source=models_per_source)


def _stack_rows(sources: Sequence[Data], rows: Sequence[slice | Tensor], *, models_per_source: int) -> Batch:
    """Return rows of each of the sources as a batch.

    Shapes are (models, n_rows, ...), or, where all models have one source, (n_rows, ...), and (n_sources, n_rows,
    n_features) for the inputs.
    """
    indeps = _stack_tensors([source.indeps for source in sources], rows, models_per_source)
    deps = _stack_tensors([source.deps for source in sources], rows, models_per_source)
    weights = None
    if any(source.weights is not None for source in sources):
        weights = _stack_tensors([_get_weights(source) for source in sources], rows, models_per_source)
    if len(sources) > 1 and models_per_source > 1:
        deps = deps.repeat_interleave(models_per_source, 0)
        weights = None if weights is None else weights.repeat_interleave(models_per_source, 0)
    return Batch(indeps, deps, weights)


def _get_weights(data: Data) -> Tensor:
    return data.deps.new_ones(len(data.deps)) if data.weights is None else data.weights


def _fill_up(sources: Sequence[Data], orders: Sequence[Tensor | None], start: int, *, models_per_source: int) -> Batch:
    """Return the rows from ``start`` on as a batch: where sources have fewer than others, rows of weight 0 follow."""
    numbers = [len(source.deps) for source in sources]
    rows = []
    for source, order, number in zip(sources, orders, numbers, strict=True):
        own = (torch.arange(number, device=source.deps.device) if order is None else order)[start:]
        rows.append(torch.cat([own, own.new_zeros(max(numbers) - number)]))
    batch = _stack_rows(sources, rows, models_per_source=models_per_source)
    n_samples = make_column(numbers, batch.deps).sub_(start).repeat_interleave(models_per_source, 0)
    is_own = torch.arange(max(numbers) - start, device=n_samples.device) < n_samples
    weights = is_own.to(batch.deps.dtype) if batch.weights is None else batch.weights * is_own
    return batch._replace(weights=weights, n_samples=n_samples)


def _stack_tensors(
    tensors: Sequence[Tensor | RowSource], rows: Sequence[slice | Tensor], models_per_source: int
) -> Tensor:
    if len(tensors) == 1:
        taken = take(tensors[0], rows[0])
        return taken if models_per_source > 1 or taken.is_sparse else taken.unsqueeze(0)  # stacking one would copy it
    return torch.stack([take(tensor, part) for tensor, part in zip(tensors, rows, strict=True)])


def take(source: Tensor | RowSource, rows: slice | Tensor) -> Tensor:
    """Return rows of a source, (n_rows, n_features)."""
    if not isinstance(source, Tensor):
        return source.take(rows)
    if isinstance(rows, slice):
        return source[rows]
    if source.shape[1:] == (1,):  # a column, as a vector, takes a third of the time
        return source.view(-1).index_select(0, rows).unsqueeze(-1)
    return source.index_select(0, rows)


def _split_batch(batch: Batch, size: int) -> Iterator[Batch]:
    """Yield a batch in parts of ``size`` rows, the last of which may have fewer."""
    indeps, deps, weights = batch[:3]
    sizes = count_sizes(deps.shape[-2], size)
    weight_parts = repeat(None) if weights is None else weights.split_with_sizes(sizes, -1)
    return map(Batch, indeps.split_with_sizes(sizes, -2), deps.split_with_sizes(sizes, -2), weight_parts)
