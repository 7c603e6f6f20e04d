"""From runs to trained networks: epochs, minibatches, and when to stop.

A `TrainingRun` is one model to train: its data, its settings, and all its state. `train` takes runs of one shape and
trains them together, as a stack along the leading models axis of `network`; a single fit is a stack of one.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, repeat
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from ._threads import VALUE_WORK, count_work, use_threads
from .losses import get_loss
from .network import Batch, Coeffs, calc_loss, execute_epoch, get_grads, store_grads, sum_losses
from .solvers import SCHEDULES, SGD, SOLVERS, Adam, minimize_lbfgs

N_GATHERED_BYTES = 2**20  # what minibatches are gathered at a time: it stays in the cache
N_STACK_BYTES = {"cpu": 2**22, "cuda": 2**30}  # of a stack's values of one batch


_FINITE_LOSS = "make sure that loss, your function, and its slopes are finite for all finite logits"

T = TypeVar("T")


class DivergenceError(ValueError):
    """The loss of a run is no longer a finite number."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to train: the estimator's parameters of the same names, validated and resolved to plain values."""

    loss: str | Callable[[Tensor, Tensor], Tensor]
    solver: str
    alpha: float
    batch_size: int
    learning_rate: str
    learning_rate_init: float
    dropout: float
    power_t: float
    max_iter: int
    ends_by_itself: bool  # by its schedule: it is no sign of trouble to come to the last epoch
    shuffle: bool
    tol: float
    momentum: float
    nesterovs_momentum: bool
    early_stopping: bool
    beta_1: float
    beta_2: float
    epsilon: float
    n_iter_no_change: float
    max_fun: int
    verbose: bool
    standardize: bool = False  # only to say what helps


class Rows(Protocol):
    """Samples that become a tensor only when they are taken."""

    shape: tuple[int, int]
    n_values: int  # entries, if they are sparse

    def take(self, samples: slice | Tensor) -> Tensor:
        """Return samples, (n_taken, n_features), which may be sparse."""


@dataclass(eq=False)
class Data:
    """Samples: ``indeps`` (n, features), ``deps`` (n, outputs), and ``weights`` (n,) with a mean of one, or None.

    ``weight_mean`` is the mean that the weights were divided by: a row of weight 2 counts as two samples.
    """

    indeps: Tensor | Rows
    deps: Tensor
    weights: Tensor | None = None
    weight_mean: float = 1.0

    def count_work(self, n_rows: int, coeffs: Coeffs) -> int:
        """Return the multiply-adds of a forward pass over so many of the samples."""
        indeps = self.indeps
        n_values = indeps.numel() if isinstance(indeps, Tensor) else indeps.n_values
        return count_work(n_values * n_rows // len(self.deps), n_rows, coeffs.sizes)


@dataclass(eq=False)
class History:
    """What is known of a model's training: the curves of one call, and the rest of all its calls."""

    losses: list[float] = field(default_factory=list)
    training_losses: list[float] = field(default_factory=list)  # without the penalty
    validation_losses: list[float] = field(default_factory=list)
    validation_scores: list[float] = field(default_factory=list)
    best_loss: float = math.inf
    best_score: float = -math.inf
    n_no_change: int = 0
    n_samples_seen: int = 0
    n_updates: int = 0
    rate: float | None = None  # None: not begun

    def copy_without_curves(self) -> "History":
        """Return a copy for another call, whose curves begin anew: copying all of them would cost more and more."""
        return replace(self, losses=[], training_losses=[], validation_losses=[], validation_scores=[])


@dataclass(eq=False)
class TrainingRun:
    """One model to train. `train` changes ``coeffs``, ``solver_state``, ``history`` and what follows, in place."""

    data: Data
    settings: Settings
    coeffs: Coeffs  # of one model: no models axis
    generator: torch.Generator
    validation: Data | None = None
    calc_score: Callable[[Coeffs], float] | None = None  # None: minus the validation loss
    # Takes the number of epochs and what gives their coefficients, and returns whether to stop.
    on_epoch: Callable[[int, Callable[[], Coeffs]], bool] | None = None
    solver_state: dict[str, Tensor] = field(default_factory=dict)
    history: History = field(default_factory=History)
    best_flat: Tensor | None = None  # with early stopping, the coefficients of the best validation score
    n_epochs: int = 0  # of this call
    n_updates_before: int = field(init=False)  # this call
    interrupted: bool = False
    warning: str | None = None  # why the run ended short of its own rule
    error: Exception | None = None  # its own: divergence, or what a scorer or callback raised

    def __post_init__(self) -> None:
        self.n_updates_before = self.history.n_updates

    def count_work(self) -> int:
        """Return the multiply-adds of a step: a pass forward, backward in twice the time, and the update."""
        n_rows = len(self.data.deps)
        if self.settings.solver != "lbfgs":
            n_rows = min(n_rows, self.settings.batch_size)
        return 3 * self.data.count_work(n_rows, self.coeffs) + VALUE_WORK * self.coeffs.flat.numel()

    def draw_order(self) -> Tensor | None:
        """Draw the order in which an epoch takes the samples, (n_samples,), or None for the order they have."""
        n_samples = len(self.data.deps)
        if not self.settings.shuffle or self.settings.batch_size >= n_samples:
            return None
        return torch.randperm(n_samples, generator=self.generator, device="cpu").to(self.data.deps.device)

    def calc_rate_factors(self, n_updates: int, n_steps: int) -> np.ndarray:
        """Return what the schedule makes of the learning rate at each step after ``n_updates``, (n_steps,)."""
        calc_factors = SCHEDULES.get(self.settings.learning_rate)
        if calc_factors is None:  # 'invscaling' and 'adaptive' change the rate after an epoch
            return np.ones(n_steps)
        n_total = self.settings.max_iter * math.ceil(len(self.data.deps) / self.settings.batch_size)
        done = n_updates - self.n_updates_before + np.arange(n_steps)
        return calc_factors(np.minimum(done / n_total, 1))

    def end_epoch(
        self, loss: float, validation_loss: float | None, flat: Tensor, training_loss: float | None = None
    ) -> bool:
        """Take note of an epoch that arrived at ``flat``, in place, and return whether it was the last.

        ``training_loss`` is the loss without the penalty, None if there is none in ``loss``.
        """
        self.n_epochs += 1
        self.history.losses.append(loss)
        self.history.training_losses.append(loss if training_loss is None else training_loss)
        try:
            return self._end_epoch(loss, validation_loss, flat)
        except Exception as error:
            self.error = error
            return True

    def _end_epoch(self, loss: float, validation_loss: float | None, flat: Tensor) -> bool:
        if self.settings.verbose:
            print(f"Iteration {self.n_epochs}, loss = {loss:.8f}")
        if not math.isfinite(loss):
            self.diverge(f"the loss is {loss}")
            return True
        improved = self._note_loss(loss)
        if validation_loss is not None:
            validation_improved = self._note_validation(validation_loss, flat)
            improved = validation_improved if self.settings.early_stopping else improved
        self.history.n_no_change = 0 if improved else self.history.n_no_change + 1
        if self.settings.learning_rate == "invscaling":
            self.history.rate = self.settings.learning_rate_init / (
                (self.history.n_samples_seen + 1) ** self.settings.power_t
            )
        if self.on_epoch is not None and self.on_epoch(self.n_epochs, lambda: self._copy_coeffs(flat)):
            return True
        return self._is_out_of_patience() or self._is_out_of_epochs()

    def _copy_coeffs(self, flat: Tensor) -> Coeffs:
        return replace(self.coeffs, flat=flat.clone())

    def end(self) -> None:
        """Check the result, in place: the update after the last loss may have been the one too many."""
        if torch.isfinite(self.coeffs.flat).all():
            return
        if self.best_flat is not None:
            self.coeffs.flat.copy_(self.best_flat)
        if self.error is None and self.warning is None:
            self.diverge("coefficients are not finite")

    def _note_loss(self, loss: float) -> bool:
        improved = loss <= self.history.best_loss - self.settings.tol
        self.history.best_loss = min(self.history.best_loss, loss)
        return improved

    def _note_validation(self, loss: float, flat: Tensor) -> bool:
        if self.calc_score is None or not math.isfinite(loss):  # scorers refuse predictions that are no numbers
            score = -loss
        else:
            score = self.calc_score(self._copy_coeffs(flat))
        self.history.validation_losses.append(loss)
        self.history.validation_scores.append(score)
        self._print(f"Validation score: {score:f}")
        improved = score >= self.history.best_score + self.settings.tol  # a NaN is no improvement
        if score > self.history.best_score:
            self.history.best_score = score
            if self.settings.early_stopping:
                self.best_flat = flat.clone()
        return improved

    def _is_out_of_patience(self) -> bool:
        settings, history = self.settings, self.history
        if history.n_no_change <= settings.n_iter_no_change:
            return False
        watched = "Validation score" if settings.early_stopping else "Training loss"
        reason = f"{watched} did not improve more than tol={settings.tol:f} for {settings.n_iter_no_change} epochs."
        if settings.learning_rate != "adaptive":
            self._print(f"{reason} Stopping.")
            return True
        assert history.rate is not None
        if history.rate <= 1e-6:
            self._print(f"{reason} Learning rate too small. Stopping.")
            return True
        history.rate /= 5
        history.n_no_change = 0
        self._print(f"{reason} Setting learning rate to {history.rate:f}")
        return False

    def _is_out_of_epochs(self) -> bool:
        if self.n_epochs < self.settings.max_iter:
            return False
        has_rule = self.settings.tol > 0 or math.isfinite(self.settings.n_iter_no_change)
        if has_rule and not self.settings.ends_by_itself:
            self.warning = (
                f"Maximum iterations (max_iter={self.settings.max_iter}) reached and the training has not converged "
                f"yet. {self._advise_on_end()}"
            )
        return True

    def _advise_on_end(self) -> str:
        settings = self.settings
        more, patience = f"Set max_iter to more than {settings.max_iter}", settings.n_iter_no_change
        if settings.learning_rate in SCHEDULES:
            return f"{more}, or leave it None: the schedule was over before n_iter_no_change={patience:g} epochs."
        if settings.solver != "lbfgs":
            return (
                f"{more}, or raise tol={settings.tol:g} or learning_rate_init={settings.learning_rate_init:g}, or set "
                "learning_rate='cosine', which ends by itself."
            )
        return f"{more}, or raise tol={settings.tol:g}{'' if settings.standardize else ', or set standardize=True'}."

    def diverge(self, sign: str) -> None:
        """Take note, in place, that the training cannot go on, of which ``sign`` tells."""
        when = f"at epoch {self.n_epochs}" if self.n_epochs else "at the start"
        message = f"Training diverged: {sign} {when}. "
        remedy = self._advise_on_divergence()
        if self.best_flat is None:
            self.error = DivergenceError(message + remedy)
        else:
            self.warning = f"{message}The coefficients of the best epoch before are kept. {remedy}"

    def _advise_on_divergence(self) -> str:
        settings = self.settings
        remedies = []
        if settings.solver != "lbfgs":
            remedies.append(f"lower learning_rate_init={settings.learning_rate_init}")
        if settings.solver == "sgd" and settings.momentum > 0.9:
            remedies.append(f"lower momentum={settings.momentum}")
        if not settings.standardize:
            remedies.append("scale the columns of X (standardize=True does so)")
        if callable(settings.loss):
            remedies.append(_FINITE_LOSS)
        remedy = ", or ".join(remedies or [f"lower alpha={settings.alpha:g}, or take solver='adam'"])
        return f"{remedy[0].upper()}{remedy[1:]}."

    def _print(self, line: str) -> None:
        if self.settings.verbose:
            print(line)


trainer: ContextVar[Callable[[TrainingRun], None] | None] = ContextVar("trainer", default=None)


def train_run(run: TrainingRun) -> None:
    """Train one run, in place: alone, or as the ``trainer`` of this thread does it."""
    train_with = trainer.get()
    if train_with is None:
        train([run])
    else:
        train_with(run)


def train(runs: Sequence[TrainingRun]) -> None:
    """Train the runs, in place, each until its own rule stops it.

    They must be of one shape: the same sizes of layers and data, and equal `Settings` but for numbers other than
    ``batch_size``. An interrupt (Ctrl-C) ends them all with what they have; an error of one is in its ``error``.
    A model's own step decides how many threads PyTorch uses, so that it trains in a stack as it does alone.
    """
    with (
        use_threads(runs[0].count_work()),
        torch.inference_mode(),
        torch.autocast(runs[0].coeffs.flat.device.type, enabled=False),
    ):
        if runs[0].settings.solver == "lbfgs":
            for run in runs:
                _train_lbfgs(run)
            return
        # Rows that are taken one model at a time are trained on so.
        stacks = [list(runs)] if all(isinstance(run.data.indeps, Tensor) for run in runs) else [[run] for run in runs]
        while stacks:
            stack = stacks.pop()
            stacks += make_stacks(_Stack(stack).train_until_one_stops())
            if stack[0].interrupted:
                for run in chain(*stacks):
                    run.interrupted = True
                return


def make_stacks(runs: Sequence[TrainingRun]) -> list[list[TrainingRun]]:
    """Deal the runs out to stacks that `train` takes, each of as many models as pay."""
    kinds: dict[object, list[list[TrainingRun]]] = {}
    for run in sorted(runs, key=lambda run: len(run.data.deps)):
        groups = kinds.setdefault(_get_kind(run), [])
        if not groups or len(run.data.deps) > 1.02 * len(groups[-1][0].data.deps) + 2:
            groups.append([])
        groups[-1].append(run)
    stacks = []
    for group in chain(*kinds.values()):
        sources: dict[object, list[TrainingRun]] = {}
        for run in group:
            sources.setdefault((id(run.data), run.generator.get_state().numpy().tobytes()), []).append(run)
        by_size: dict[int, list[list[TrainingRun]]] = {}
        for alike in sources.values():
            for part in _deal(alike, count_models(alike[0])):
                by_size.setdefault(len(part), []).append(part)
        for size, parts in by_size.items():
            for dealt in _deal(parts, max(1, count_models(parts[0][0]) // size)):
                stacks.append(list(chain(*dealt)))
    return stacks


def explain_alone(run: TrainingRun) -> str | None:
    """Return why a run cannot be one of a stack, or None if it can."""
    if run.settings.solver == "lbfgs":
        return "solver='lbfgs' trains one model at a time"
    if not isinstance(run.data.indeps, Tensor):
        return "sparse or mapped rows are taken one model at a time"
    return None


def count_models(run: TrainingRun) -> int:
    """Return how many models such as the run's train well together: their values of a batch stay in the cache."""
    n_values = min(run.settings.batch_size, len(run.data.deps)) * sum(run.coeffs.sizes[1:])
    flat = run.coeffs.flat
    return max(1, N_STACK_BYTES[flat.device.type] // (n_values * flat.itemsize))


def _get_kind(run: TrainingRun) -> object:
    """Return what runs of one stack have in common."""
    if explain_alone(run) is not None:
        return id(run)
    settings, coeffs, validation = run.settings, run.coeffs, run.validation
    n_steps = math.ceil(len(run.data.deps) / settings.batch_size)
    return (
        (settings.loss, settings.solver, settings.nesterovs_momentum, settings.shuffle, settings.dropout > 0),
        (n_steps, settings.batch_size if n_steps > 1 else None),
        (coeffs.sizes, coeffs.activation, coeffs.output, coeffs.n_biases, coeffs.flat.dtype, coeffs.flat.device),
        (run.data.indeps.shape[1], None if validation is None else validation.indeps.shape[1]),
    )


def _deal(items: list[T], most: int) -> list[list[T]]:
    """Return the items in as few lists of at most so many as there must be, of about one length."""
    n_lists = math.ceil(len(items) / most)
    return [items[len(items) * k // n_lists : len(items) * (k + 1) // n_lists] for k in range(n_lists)]


def _find_sources(runs: Sequence[TrainingRun]) -> list[TrainingRun]:
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


class _Stack:
    """Runs that train in lockstep: their coefficients and solver states stacked along a leading models axis."""

    def __init__(self, runs: Sequence[TrainingRun]) -> None:
        self.runs = runs
        settings = [run.settings for run in runs]
        self.sources = _find_sources(runs)
        self.share = len(runs) // len(self.sources)  # models that each serves
        self.loss = get_loss(settings[0].loss)
        self.plain_coeffs = replace(runs[0].coeffs, flat=_stack_buffers([run.coeffs.flat for run in runs]))
        self.coeffs = _meet(self.plain_coeffs, runs[0].data)
        self.penalties = self._column([run.settings.alpha / run.data.weight_mean for run in runs])
        self.is_penalized = any(run.settings.alpha for run in runs)
        self.flats = self.coeffs.flat.unbind()
        self.grads = get_grads(self.coeffs.flat)
        n_weights = self.plain_coeffs.n_weights
        self.weights, self.weight_grads = self.coeffs.flat[:, :n_weights], self.grads[:, :n_weights]
        self.squares = torch.zeros_like(self.coeffs.flat[:, 0])  # of the weights, summed over an epoch's steps
        self.keep_rates = 1 - self._column([each.dropout for each in settings]).unsqueeze(-1)
        self.rates: list[float] = []
        self.step_rates: list[Tensor] = []  # of the next steps, in reverse order
        n_samples = self._column([len(run.data.deps) for run in runs])
        self.loss_penalties = (self.penalties / n_samples / 2).squeeze(-1)
        self.n_batch: int | None = 1
        self.decays = self.penalties
        solver_class = SOLVERS[settings[0].solver]
        state = {
            name: _stack_buffers(
                [
                    run.solver_state[name] if name in run.solver_state else torch.zeros_like(run.coeffs.flat)
                    for run in runs
                ]
            )
            for name in solver_class.buffers
        }
        self.solver: SGD | Adam
        if solver_class is SGD:
            self.solver = SGD(state, self._column([each.momentum for each in settings]), settings[0].nesterovs_momentum)
        else:
            columns = [[each.beta_1, each.beta_2, each.epsilon] for each in settings]
            self.solver = Adam(state, *map(self._column, zip(*columns, strict=True)))

    def _column(self, values: Sequence[float]) -> Tensor:
        """Return each model's value, (models, 1), to work with flat buffers."""
        return self.coeffs.flat.new_tensor(values).unsqueeze(-1)

    def train_until_one_stops(self) -> list[TrainingRun]:
        """Go over epochs until a run stops. All runs are up to date then; those to go on with are returned."""
        going = self.runs
        try:
            while len(going) == len(self.runs):
                going = self._execute_epoch()
        except KeyboardInterrupt:
            going = []
            for run in self.runs:
                run.interrupted = True
        self._store()
        return list(going)

    def _execute_epoch(self) -> list[TrainingRun]:
        histories = [run.history for run in self.runs]
        self.n_steps = 0
        self.squares.zero_()
        rates = [run.history.rate or 0.0 for run in self.runs]
        if rates != self.rates:
            self.rates, self.step_rates = rates, []
        try:
            losses = execute_epoch(self.coeffs, self._draw_batches(), self._update, self.loss)
        finally:
            for history in histories:
                history.n_updates += self.n_steps
        for run in self.runs:
            run.history.n_samples_seen += len(run.data.deps)
        penalized = torch.addcmul(losses, self.squares, self.loss_penalties)
        both = torch.stack([penalized, losses]).tolist()  # one copy from a device
        results = zip(both[0], self._calc_validation_losses(), self.flats, both[1], strict=True)
        ended = [run.end_epoch(*result) for run, result in zip(self.runs, results, strict=True)]
        return [run for run, is_last in zip(self.runs, ended, strict=True) if not is_last]

    def _draw_batches(self) -> Iterator[Batch]:
        """Yield the minibatches of an epoch, gathered several at a time: that costs little more than one."""
        datas = [run.data for run in self.sources]
        orders = [run.draw_order() for run in self.sources]
        numbers = [len(data.deps) for data in datas]
        n_samples, size = max(numbers), max(run.settings.batch_size for run in self.sources)
        if size >= n_samples:
            yield self._prepare(self.training_batch)
            return
        n_rows = size
        if isinstance(datas[0].indeps, Tensor):
            row_bytes = len(datas) * datas[0].indeps.shape[-1] * datas[0].indeps.itemsize
            n_rows *= max(1, N_GATHERED_BYTES // (size * row_bytes))
        # The last batch is one of its own if it must be filled up.
        end = n_samples if min(numbers) == n_samples else (n_samples - 1) // size * size
        for start in range(0, end, n_rows):
            rows = slice(start, min(start + n_rows, end))
            gathered = _stack_rows(
                datas, [rows if order is None else order[rows] for order in orders], share=self.share
            )
            for batch in [gathered] if n_rows == size else _split_batch(gathered, size):
                yield self._prepare(batch)
        if end < n_samples:
            yield self._prepare(_fill_up(datas, orders, end, share=self.share))

    @cached_property
    def training_batch(self) -> Batch:
        """All training samples as one batch."""
        return _stack_whole([run.data for run in self.runs])

    @cached_property
    def validation_batch(self) -> Batch:
        """All validation samples as one batch."""
        return _stack_whole([run.validation for run in self.runs if run.validation is not None])

    def _prepare(self, batch: Batch) -> Batch:
        """Return a batch with what dropout leaves of its step, and work out the penalty on each of its samples."""
        if batch.counts is not None:
            self.n_batch, self.decays = None, self.penalties / batch.counts.unsqueeze(-1)
        elif batch.deps.shape[-2] != self.n_batch:
            self.n_batch = batch.deps.shape[-2]
            self.decays = self.penalties / self.n_batch
        return batch if self.runs[0].settings.dropout == 0 else batch._replace(masks=self._draw_masks(batch))

    def _draw_masks(self, batch: Batch) -> list[Tensor]:
        """Draw dropout's factors for each hidden layer, (models, n_rows, width): 0, or 1 / (1 - rate)."""
        n_rows = batch.deps.shape[-2]
        n_own = [n_rows] * len(self.sources)
        if batch.counts is not None:
            n_own = [int(count) for count in batch.counts[:: self.share].tolist()]
        masks = []
        for width in self.coeffs.sizes[1:-1]:
            draws = torch.ones(len(self.sources), n_rows, width, dtype=torch.float32, device="cpu")
            for draw, run, n in zip(draws, self.sources, n_own, strict=True):
                draw[:n].uniform_(generator=run.generator)
            draws = draws.to(self.keep_rates.device).repeat_interleave(self.share, 0)
            masks.append((draws < self.keep_rates).to(self.keep_rates.dtype).div_(self.keep_rates))
        return masks

    def _update(self, coeffs: Coeffs) -> None:
        """Add the gradient of the L2 penalty, and let the solver change the coefficients, in place."""
        if self.is_penalized:
            _add_squares(self.squares, self.weights)
            self.weight_grads.addcmul_(self.weights, self.decays)
        if not self.step_rates:
            n_updates = [run.history.n_updates + self.n_steps for run in self.runs]
            factors = [run.calc_rate_factors(n, 128) for run, n in zip(self.runs, n_updates, strict=True)]
            self.step_rates = list(self.solver.calc_rates(np.stack(factors, -1) * self.rates, n_updates))[::-1]
        self.solver.update(coeffs.flat, self.grads, self.step_rates.pop())
        self.grads.zero_()
        self.n_steps += 1

    def _calc_validation_losses(self) -> list[float] | list[None]:
        if self.runs[0].validation is None:
            return [None] * len(self.runs)
        validation = self.runs[0].validation
        coeffs = _meet(self.plain_coeffs, validation)
        indeps, deps, weights, counts, _ = self.validation_batch
        with use_threads(validation.count_work(len(validation.deps), self.runs[0].coeffs)):
            losses: list[float] = calc_loss(coeffs, indeps, deps, weights, self.loss, counts).tolist()
        return losses

    def _store(self) -> None:
        for model, run in enumerate(self.runs):
            source = self.sources[model // self.share]
            if run is not source:
                run.generator.set_state(source.generator.get_state())
            run.solver_state = {name: buffer[model] for name, buffer in self.solver.state.items()}
            if len(self.runs) > 1:  # the memory of one is its own, see `_stack_buffers`
                run.coeffs.flat.copy_(self.coeffs.flat[model])
                run.solver_state = {name: buffer.clone() for name, buffer in run.solver_state.items()}
            run.end()


def _stack_buffers(buffers: list[Tensor]) -> Tensor:
    """Return the buffers stacked; one alone, which may be large, is not copied."""
    return buffers[0].unsqueeze(0) if len(buffers) == 1 else torch.stack(buffers)


def _meet(coeffs: Coeffs, data: Data) -> Coeffs:
    """Return the network, on the same buffer, for inputs as ``data`` has them: with a column of ones or without."""
    return coeffs.with_ones() if data.indeps.shape[-1] > coeffs.sizes[0] else coeffs


def _add_squares(totals: Tensor, weights: Tensor, block: int = 16384) -> None:
    """Add the sum of the squares of each model's weights, (models,). By blocks: long sums depend on the threads."""
    for part in (
        [weights]
        if weights.shape[-1] <= block
        else weights.split_with_sizes(_count_sizes(weights.shape[-1], block), -1)
    ):
        norms = torch.linalg.vector_norm(part, dim=-1)
        totals.addcmul_(norms, norms)


def _count_sizes(total: int, size: int) -> list[int]:
    n_whole, n_rest = divmod(total, size)
    return [size] * n_whole + [n_rest] * (n_rest > 0)


def _stack_whole(datas: Sequence[Data]) -> Batch:
    """Return all samples as one batch."""
    sources = list({id(data): data for data in datas}.values())
    share = len(datas) // len(sources)
    if any(data is not sources[k // share] for k, data in enumerate(datas)):
        sources, share = list(datas), 1
    if len({len(source.deps) for source in sources}) > 1:
        return _fill_up(sources, [None] * len(sources), 0, share=share)
    return _stack_rows(sources, [slice(None)] * len(sources), share=share)


def _stack_rows(datas: Sequence[Data], rows: Sequence[slice | Tensor], *, share: int) -> Batch:
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


def _fill_up(datas: Sequence[Data], orders: Sequence[Tensor | None], start: int, *, share: int) -> Batch:
    """Return the rows from ``start`` on as a batch: where data have fewer than others, rows of weight 0 follow."""
    numbers = [len(data.deps) for data in datas]
    rows = []
    for data, order, number in zip(datas, orders, numbers, strict=True):
        own = (torch.arange(number, device=data.deps.device) if order is None else order)[start:]
        rows.append(torch.cat([own, own.new_zeros(max(numbers) - number)]))
    batch = _stack_rows(datas, rows, share=share)
    counts = torch.tensor(numbers, device=batch.deps.device).sub_(start).repeat_interleave(share)
    is_own = torch.arange(max(numbers) - start, device=counts.device) < counts.unsqueeze(-1)
    weights = is_own.to(batch.deps.dtype) if batch.weights is None else batch.weights * is_own
    return batch._replace(weights=weights, counts=counts.to(batch.deps.dtype))


def _stack_tensors(sources: Sequence[Tensor | Rows], rows: Sequence[slice | Tensor], share: int) -> Tensor:
    if len(sources) == 1:
        taken = _take(sources[0], rows[0])
        return taken if share > 1 or taken.is_sparse else taken.unsqueeze(0)  # stacking one would copy it
    return torch.stack([_take(source, part) for source, part in zip(sources, rows, strict=True)])


def _take(source: Tensor | Rows, rows: slice | Tensor) -> Tensor:
    if not isinstance(source, Tensor):
        return source.take(rows)
    if isinstance(rows, slice):
        return source[rows]
    if source.shape[1:] == (1,):  # a column, as a vector, takes a third of the time
        return source.view(-1).index_select(0, rows).unsqueeze(-1)
    return source.index_select(0, rows)


def _split_batch(batch: Batch, size: int) -> Iterator[Batch]:
    indeps, deps, weights, _, _ = batch
    sizes = _count_sizes(deps.shape[-2], size)
    weight_parts = repeat(None) if weights is None else weights.split_with_sizes(sizes, -1)
    return map(Batch, indeps.split_with_sizes(sizes, -2), deps.split_with_sizes(sizes, -2), weight_parts)


def _explain_lbfgs(run: TrainingRun, reason: str) -> str:
    settings = run.settings
    if reason == "max_fun":
        return f"max_fun={settings.max_fun} evaluations of the loss are done. Raise max_fun, or tol={settings.tol:g}."
    remedies = [f"Raise tol={settings.tol:g}"]
    if not settings.standardize:
        remedies.append("scale the columns of X (standardize=True does so)")
    if run.coeffs.flat.dtype != torch.float64:
        remedies.append("set dtype='float64'")
    if callable(settings.loss):
        remedies.append(_FINITE_LOSS)
    remedies.append("take solver='adam', which needs no smooth loss")
    return f"its line search found no smaller loss. {', or '.join(remedies)}."


def _train_lbfgs(run: TrainingRun) -> None:
    coeffs, data, loss = run.coeffs, run.data, get_loss(run.settings.loss)
    indeps = _take(data.indeps, slice(None))
    penalty = run.settings.alpha / (run.data.weight_mean * len(data.deps))

    training_loss = math.nan  # of the last evaluation, without the penalty

    def calc_loss_and_grads(flat: Tensor) -> tuple[float, Tensor]:
        nonlocal training_loss
        current = _meet(replace(coeffs, flat=flat), data)
        logits = store_grads(current, indeps, data.deps, data.weights, loss)
        value = sum_losses(logits, data.deps, data.weights, loss, coeffs.output) / len(data.deps)
        squares = torch.zeros_like(value)
        _add_squares(squares, flat[: coeffs.n_weights])
        penalized = value + penalty / 2 * squares
        grads = get_grads(current.flat)
        grads[: coeffs.n_weights] += penalty * flat[: coeffs.n_weights]
        run.history.n_updates += 1
        penalized_loss, training_loss = torch.stack([penalized, value]).tolist()
        return penalized_loss, grads

    def on_iteration(flat: Tensor, value: float) -> None:
        run.history.n_samples_seen += len(data.deps)
        validation = run.validation
        validation_loss = None
        if validation is not None:
            with use_threads(validation.count_work(len(validation.deps), coeffs)):
                validation_loss = calc_loss(
                    _meet(replace(coeffs, flat=flat), validation),
                    _take(validation.indeps, slice(None)),
                    validation.deps,
                    validation.weights,
                    loss,
                ).item()
        if run.end_epoch(value, validation_loss, flat, training_loss):
            raise StopIteration

    settings = run.settings
    try:
        first_loss, first_grads = calc_loss_and_grads(coeffs.flat)
        first_training_loss = training_loss
        if not (math.isfinite(first_loss) and torch.isfinite(first_grads).all()):
            run.diverge("the loss or its gradient is not finite")
            return
        reason = minimize_lbfgs(
            calc_loss_and_grads,
            coeffs.flat,
            max_iter=settings.max_iter,
            max_fun=settings.max_fun,
            tol=settings.tol,
            on_iteration=on_iteration,
        )
        if reason is not None and run.warning is None and run.error is None:
            run.warning = f"lbfgs stopped short of its tolerance: {_explain_lbfgs(run, reason)}"
        if not run.history.losses:  # it started at a minimum
            run.history.losses.append(first_loss)
            run.history.training_losses.append(first_training_loss)
    except KeyboardInterrupt:
        run.interrupted = True
    run.end()
