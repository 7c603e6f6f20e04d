"""The minibatches of an epoch: order, gathering, padding and dropout masks, once for models with the same data."""

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import repeat
from typing import NamedTuple

import torch
from torch import Tensor

from ..batch import Batch
from .buffers import count_sizes, make_column
from .run import Data, RowSource, TrainingRun

# Minibatches of about this size are gathered together: a CPU's stay in the cache. On other devices, their number is
# limited, too: a CUDA graph of more steps is no faster.
N_GATHERED_BYTES = 2**20
N_GATHERED_BYTES_ON_DEVICE, MOST_GATHERED_ON_DEVICE = 2**26, 32


class Group(NamedTuple):
    """The rows of successive minibatches of ``size`` rows. The last may have fewer rows."""

    rows: Batch
    size: int
    n_own: list[int] | None = None  # rows of each source in the only batch, if others pad it; None: all
    is_whole: bool = False  # whether the rows are all of an epoch, in the same memory in each epoch

    @property
    def n_steps(self) -> int:
        """The number of minibatches."""
        return math.ceil(self.rows.deps.shape[-2] / self.size)

    def split(self) -> Iterator[Batch]:
        """Yield the minibatches, without masks."""
        return iter([self.rows]) if self.rows.deps.shape[-2] <= self.size else _split_batch(self.rows, self.size)


class BatchSource:
    """The minibatches of runs that train together.

    Runs with the same data and seed draw the same batches, so one of them, the source, draws and gathers for all. Each
    of the ``sources`` serves ``models_per_source`` successive runs, of which it is the first.
    """

    def __init__(self, runs: Sequence[TrainingRun]) -> None:
        self.runs = runs
        self.sources = _find_sources(runs)
        self.models_per_source = len(runs) // len(self.sources)
        # That each run draws from: its source's.
        self.generators = [self.sources[model // self.models_per_source].generator for model in range(len(runs))]
        self.on_device = [_make_generator(run) for run in self.sources]  # that orders and masks are drawn from
        self.keep_rates = 1 - make_column([run.settings.dropout for run in runs], runs[0].buffer.flat).unsqueeze(-1)

    def draw_batches(self) -> Iterator[Batch]:
        """Yield the minibatches of an epoch."""
        for group in self.draw_groups():
            yield from self.split(group)

    def copy_generator_states(self) -> None:
        """Set the generator of each run, in place, to the state of its source's generator."""
        for run, generator in zip(self.runs, self.generators, strict=True):
            if run.generator is not generator:
                run.generator.set_state(generator.get_state())

    def draw_groups(self) -> Iterator[Group]:
        """Yield the minibatches of an epoch in groups. To gather a group takes little longer than to gather a batch."""
        self._seed_devices()
        datas = [run.data for run in self.sources]
        orders = [draw_order(run, generator) for run, generator in zip(self.sources, self.on_device, strict=True)]
        numbers = [len(data.deps) for data in datas]
        n_samples, size = max(numbers), max(run.settings.batch_size for run in self.sources)
        is_padded = min(numbers) < n_samples
        if size >= n_samples:
            yield Group(self._whole_batch, size, numbers if is_padded else None, is_whole=True)
            return
        n_rows = _count_gathered_rows(datas, size)
        # A last batch that has to be padded is gathered alone.
        end = (n_samples - 1) // size * size if is_padded else n_samples
        for start in range(0, end, n_rows):
            rows = slice(start, min(start + n_rows, end))
            rows_of_sources = [rows if order is None else order[rows] for order in orders]
            yield Group(_stack_rows(datas, rows_of_sources, models_per_source=self.models_per_source), size)
        if is_padded:
            last = _stack_padded(datas, orders, end, models_per_source=self.models_per_source)
            yield Group(last, size, [number - end for number in numbers])

    def split(self, group: Group) -> Iterator[Batch]:
        """Yield the minibatches of a group, with dropout masks if there is dropout."""
        if not self.runs[0].settings.dropout:
            return group.split()
        return (batch._replace(masks=self._draw_masks(batch, group.n_own)) for batch in group.split())

    def _seed_devices(self) -> None:
        """Seed the generators of another device for an epoch, in place, from the runs' own.

        So the draws of a run depend neither on the runs beside it nor on those that have left the stack.
        """
        for run, generator in zip(self.sources, self.on_device, strict=True):
            if generator is not run.generator:
                generator.manual_seed(int(torch.randint(2**63 - 1, (), generator=run.generator, device="cpu")))

    @cached_property
    def _whole_batch(self) -> Batch:
        return stack_whole([run.data for run in self.runs])

    def _draw_masks(self, batch: Batch, n_own: list[int] | None) -> list[Tensor]:
        """Draw dropout's factors for each hidden layer, (models, n_rows, width): 0, or 1 / (1 - rate)."""
        n_rows, device = batch.deps.shape[-2], self.keep_rates.device
        n_own = n_own or [n_rows] * len(self.sources)
        masks = []
        for width in self.runs[0].buffer.sizes[1:-1]:
            draws = torch.ones(len(self.sources), n_rows, width, dtype=torch.float32, device=device)
            for draw, generator, n in zip(draws, self.on_device, n_own, strict=True):
                draw[:n].uniform_(generator=generator)
            draws = draws.repeat_interleave(self.models_per_source, 0)
            masks.append((draws < self.keep_rates).to(self.keep_rates.dtype).div_(self.keep_rates))
        return masks


def draw_order(run: TrainingRun, generator: torch.Generator) -> Tensor | None:
    """Draw the order in which an epoch takes the samples, (n_samples,). None is the order of the data."""
    n_samples = len(run.data.deps)
    if not run.settings.shuffle or run.settings.batch_size >= n_samples:
        return None
    return torch.randperm(n_samples, generator=generator, device=generator.device)


def _make_generator(run: TrainingRun) -> torch.Generator:
    """Return the generator of the device that a run trains on: on the CPU the run's own."""
    device = run.buffer.flat.device
    return run.generator if device.type == "cpu" else torch.Generator(device)


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


def _count_gathered_rows(datas: Sequence[Data], size: int) -> int:
    """Return how many rows are gathered together, a multiple of the ``size`` of a batch."""
    indeps = datas[0].indeps
    if not isinstance(indeps, Tensor):
        return size
    batch_bytes = size * len(datas) * indeps.shape[-1] * indeps.itemsize
    if indeps.device.type == "cpu":
        return size * max(1, N_GATHERED_BYTES // batch_bytes)
    return size * min(max(1, N_GATHERED_BYTES_ON_DEVICE // batch_bytes), MOST_GATHERED_ON_DEVICE)


def stack_whole(datas: Sequence[Data]) -> Batch:
    """Return all samples of each model's data as one batch. Successive models with the same data get one copy."""
    sources = list({id(data): data for data in datas}.values())
    models_per_source = len(datas) // len(sources)
    if any(data is not sources[model // models_per_source] for model, data in enumerate(datas)):
        sources, models_per_source = list(datas), 1
    if len({len(source.deps) for source in sources}) > 1:
        return _stack_padded(sources, [None] * len(sources), 0, models_per_source=models_per_source)
    return _stack_rows(sources, [slice(None)] * len(sources), models_per_source=models_per_source)


def _stack_rows(datas: Sequence[Data], rows: Sequence[slice | Tensor], *, models_per_source: int) -> Batch:
    """Return ``rows`` of the data of each source as a batch.

    Targets and weights are (models, n_rows, ...), and inputs (n_sources, n_rows, n_features). If all models have one
    source, none of them has the first axis.
    """
    indeps = _stack_tensors([data.indeps for data in datas], rows, models_per_source)
    deps = _stack_tensors([data.deps for data in datas], rows, models_per_source)
    weights = None
    if any(data.weights is not None for data in datas):
        weights = _stack_tensors(_list_weights(datas), rows, models_per_source)
    if len(datas) > 1 and models_per_source > 1:
        deps = deps.repeat_interleave(models_per_source, 0)
        weights = None if weights is None else weights.repeat_interleave(models_per_source, 0)
    return Batch(indeps, deps, weights)


def _list_weights(datas: Sequence[Data]) -> list[Tensor]:
    """Return the weights of each data, ones where it has none. One of them has weights."""
    like = next(data.weights for data in datas if data.weights is not None)
    return [like.new_ones(len(data.deps)) if data.weights is None else data.weights for data in datas]


def _stack_padded(
    datas: Sequence[Data], orders: Sequence[Tensor | None], start: int, *, models_per_source: int
) -> Batch:
    """Return the rows from ``start`` on as a batch, in which rows of weight 0 pad the sources that have fewer rows."""
    numbers = [len(data.deps) for data in datas]
    rows = []
    for data, order, number in zip(datas, orders, numbers, strict=True):
        own = (torch.arange(number, device=data.deps.device) if order is None else order)[start:]
        rows.append(torch.cat([own, own.new_zeros(max(numbers) - number)]))
    batch = _stack_rows(datas, rows, models_per_source=models_per_source)
    n_samples = make_column(numbers, batch.indeps).sub_(start).repeat_interleave(models_per_source, 0)
    is_own = torch.arange(max(numbers) - start, device=n_samples.device) < n_samples
    weights = is_own.to(batch.indeps.dtype) if batch.weights is None else batch.weights * is_own
    return batch._replace(weights=weights, n_samples=n_samples)


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
    """Yield the minibatches of ``size`` rows that were gathered together. The last may have fewer rows."""
    indeps, deps, weights = batch[:3]
    sizes = count_sizes(deps.shape[-2], size)
    split_weights = repeat(None) if weights is None else weights.split_with_sizes(sizes, -1)
    return map(Batch, indeps.split_with_sizes(sizes, -2), deps.split_with_sizes(sizes, -2), split_weights)
