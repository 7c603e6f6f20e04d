"""Runs, stacks, and when training stops."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from training_helpers import make_data, make_run

from scratchnn.losses import LOSSES
from scratchnn.network import calc_loss
from scratchnn.training import make_stacks, stopping, train
from scratchnn.training.batches import draw_order
from scratchnn.training.grouping import count_models


@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("batch_size", [32, 100])
@pytest.mark.parametrize("shared", [True, False])
def test_stacked_runs_train_as_if_alone(solver, batch_size, shared):
    """Different rates, penalties, seeds, numbers of epochs, and data."""

    def make_runs():
        datas = [make_data()] * 3 if shared else [make_data(seed=seed, weighted=seed == 1) for seed in range(3)]
        return [
            make_run(
                data,
                seed=number,
                solver=solver,
                batch_size=batch_size,
                alpha=0.01 * number,
                learning_rate_init=0.01 + 0.01 * number,
                max_iter=4 + number,
            )
            for number, data in enumerate(datas)
        ]

    together, alone = make_runs(), make_runs()
    train(together)
    for run in alone:
        train([run])
    assert [run.n_epochs for run in together] == [4, 5, 6]
    for stacked, single in zip(together, alone, strict=True):
        torch.testing.assert_close(stacked.buffer.flat, single.buffer.flat, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(stacked.history.losses, single.history.losses, rtol=1e-10)
        np.testing.assert_allclose(stacked.history.training_losses, single.history.training_losses, rtol=1e-10)
        assert stacked.history.n_samples_seen == single.history.n_samples_seen


def test_early_stopping_of_one_run_leaves_the_others_alone():
    validation = make_data(seed=7)
    validations = {"validation": validation, "early_stopping": True, "max_iter": 40}
    runs = [
        make_run(
            n_iter_no_change=2, tol=1.0, **validations
        ),  # a tolerance that nothing meets: stops after 3 epochs more
        make_run(n_iter_no_change=100, **validations),
    ]
    single = make_run(n_iter_no_change=100, **validations)
    train(runs)
    train([single])
    assert [run.n_epochs for run in runs] == [4, 40]
    assert len(runs[0].history.validation_scores) == 4
    assert runs[0].best_flat is not None
    torch.testing.assert_close(runs[1].buffer.flat, single.buffer.flat, rtol=1e-10, atol=1e-12)


def test_patience_counts_epochs_without_enough_improvement():
    """An epoch counts as improvement if the loss falls by tol or more; one more than patience ends the run."""
    run = make_run(n_iter_no_change=3, tol=0.1)
    ends = [stopping.end_epoch(run, loss, None, run.buffer.flat) for loss in [1.0, 0.85, 0.80, 0.78, 0.74]]
    assert ends == [False] * 5  # 0.74 is 0.04 below the best, 0.78: the third epoch without improvement
    assert run.history.n_no_change == 3
    assert stopping.end_epoch(run, 0.73, None, run.buffer.flat)
    assert run.history.best_loss == 0.73
    assert run.warning is None


def test_the_best_epoch_is_the_best_by_however_little():
    """Smaller gains than tol do not count for patience, but their coefficients are the ones to return to."""
    run = make_run(early_stopping=True, validation=make_data(seed=1), tol=0.1, n_iter_no_change=2, max_iter=10)
    ends = [stopping.end_epoch(run, 1.0, loss, run.buffer.flat * 0 + loss) for loss in [0.5, 0.45, 0.44, 0.46]]
    assert ends == [False, False, False, True]
    assert run.history.best_score == -0.44
    assert (run.best_flat == 0.44).all()


def test_adaptive_rate_is_divided_by_five_until_it_is_tiny():
    run = make_run(solver="sgd", learning_rate="adaptive", n_iter_no_change=1, tol=1.0, learning_rate_init=3e-5)
    run.hyperparameters = dataclasses.replace(run.hyperparameters, max_iter=100)
    rates = []
    while not stopping.end_epoch(run, 1.0, None, run.buffer.flat):
        rates.append(run.history.rate)
    # Each pair of epochs without improvement divides, after the first epoch, which improves on nothing.
    np.testing.assert_allclose(sorted(set(rates), reverse=True), [3e-5, 6e-6, 1.2e-6, 2.4e-7])


def test_invscaling_divides_the_rate_by_a_power_of_the_samples_seen():
    run = make_run(solver="sgd", learning_rate="invscaling", power_t=0.25, learning_rate_init=0.5, max_iter=2)
    train([run])
    assert run.history.rate == pytest.approx(0.5 / (2 * 100 + 1) ** 0.25)


def test_penalty_is_part_of_loss_and_of_gradient():
    """One full-batch step of plain descent: w - rate * (grad + alpha / n * w), the bias without penalty."""
    data = make_data()
    common = {"solver": "sgd", "momentum": 0.0, "nesterovs_momentum": False, "batch_size": 100, "max_iter": 1}
    plain, penalized = make_run(data, alpha=0.0, **common), make_run(data, alpha=5.0, **common)
    start = plain.buffer.flat.clone()
    train([plain])
    train([penalized])
    is_weight = torch.arange(len(start)) < plain.buffer.n_weights
    expected = plain.buffer.flat - 0.01 * 5 / 100 * start * is_weight
    torch.testing.assert_close(penalized.buffer.flat, expected, rtol=1e-12, atol=1e-14)
    squares = (start * is_weight).square().sum().item()
    assert penalized.history.losses[0] == pytest.approx(plain.history.losses[0] + 0.5 * 5 / 100 * squares)
    assert penalized.history.training_losses == plain.history.training_losses == plain.history.losses


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
def test_training_losses_are_the_losses_without_the_penalty(solver):
    """In a stack with a run that has no penalty, whose two curves are the same."""
    runs = [make_run(alpha=alpha, solver=solver, batch_size=100, max_iter=1) for alpha in (0.0, 5.0)]
    data = runs[0].data
    starts = [run.buffer.flat.clone() for run in runs]
    train(runs)
    assert runs[0].history.training_losses == runs[0].history.losses
    # 'lbfgs' gives the loss after its step, the others before.
    flat = runs[1].buffer.flat if solver == "lbfgs" else starts[1]
    buffer = dataclasses.replace(runs[1].buffer, flat=flat)
    loss = calc_loss(buffer.as_coeffs(), data.inputs, data.targets, loss=LOSSES["log_loss"]).item()
    squares = flat[: buffer.n_weights].square().sum().item()
    assert runs[1].history.training_losses == [pytest.approx(loss, rel=1e-10)]
    assert runs[1].history.losses == [pytest.approx(loss + 5 / 2 / 100 * squares, rel=1e-10)]


def test_lbfgs_at_a_minimum_has_a_loss_of_either_kind():
    run = make_run(solver="lbfgs", max_iter=5, tol=1e9)
    train([run])
    assert run.n_epochs == 0
    assert len(run.history.losses) == len(run.history.training_losses) == 1
    assert run.history.training_losses[0] < run.history.losses[0]


def test_lbfgs_without_another_remedy_names_alpha():
    data = make_data()
    data.inputs[0, 0] = math.inf
    run = make_run(data, solver="lbfgs", standardize=True, alpha=2.0)
    train([run])
    assert str(run.error) == (
        "Training diverged: the loss or its gradient is not finite at the start. Lower alpha=2, or set solver='adam'."
    )


def test_lbfgs_reaches_a_point_without_gradient():
    run = make_run(solver="lbfgs", sizes=(), batch_size=100, max_iter=200, tol=1e-7)
    train([run])
    assert run.warning is None
    flat = run.buffer.flat.clone().requires_grad_()
    logits = run.data.inputs @ flat[:5, None] + flat[5]
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, run.data.targets)
    (loss + 0.01 / 2 / 100 * flat[:5].square().sum()).backward()
    assert flat.grad.abs().max() < 1e-7


def test_divergence_names_epoch_and_remedy():
    data = make_data()
    data.inputs *= 1e200
    run = make_run(data, solver="sgd", learning_rate_init=1e200)
    train([run])
    assert run.error is not None
    assert "diverged" in str(run.error)
    assert "epoch" in str(run.error)
    assert "learning_rate_init" in str(run.error)


def test_divergence_of_one_run_leaves_the_others_alone():
    runs = [make_run(learning_rate_init=math.inf, solver="sgd"), make_run(solver="sgd")]
    single = make_run(solver="sgd")
    train(runs)
    train([single])
    assert runs[0].error is not None
    assert runs[1].error is None
    torch.testing.assert_close(runs[1].buffer.flat, single.buffer.flat, rtol=1e-10, atol=1e-12)


def test_divergence_with_early_stopping_returns_to_the_best_epoch():
    run = make_run(validation=make_data(seed=1), early_stopping=True)
    stopping.end_epoch(run, 1.0, 1.0, run.buffer.flat)
    assert stopping.end_epoch(run, math.nan, math.nan, run.buffer.flat * math.nan)
    run.buffer.flat.fill_(math.nan)
    stopping.end_run(run)
    assert run.error is None
    assert "diverged" in run.warning
    torch.testing.assert_close(run.buffer.flat, run.best_flat)


def test_predictions_that_are_not_numbers_are_not_given_to_the_scorer():
    """Scorers refuse them, and their error would hide the divergence that the next loss shows."""

    def calc_score(buffer):
        raise AssertionError("the scorer was called")

    run = make_run(validation=make_data(seed=1), early_stopping=True)
    run.calc_score = calc_score
    assert not stopping.end_epoch(run, 1.0, math.nan, run.buffer.flat)
    assert run.best_flat is None


def test_interrupt_ends_all_runs_with_what_they_have(monkeypatch):
    runs = [make_run(max_iter=50), make_run(max_iter=50, seed=1)]
    starts = [run.buffer.flat.clone() for run in runs]
    ended = stopping.end_epoch

    def end_epoch(run, *args):
        if run.n_epochs == 3:
            raise KeyboardInterrupt
        return ended(run, *args)

    monkeypatch.setattr(stopping, "end_epoch", end_epoch)
    train(runs)
    assert all(run.interrupted and run.n_epochs == 3 for run in runs)
    assert all(not torch.equal(run.buffer.flat, start) for run, start in zip(runs, starts, strict=True))


def test_shuffling_draws_a_new_order_each_epoch_and_full_batches_draw_none():
    run = make_run()
    first, second = draw_order(run), draw_order(run)
    assert sorted(first.tolist()) == list(range(100))
    assert not torch.equal(first, second)
    assert draw_order(make_run(batch_size=100)) is None
    assert draw_order(make_run(shuffle=False)) is None


@pytest.mark.parametrize("n_samples", [(620, 620), (621, 630), (630, 621), (641, 641)])  # 641: a last batch of one row
@pytest.mark.parametrize("batch_size", [32, 300, 700])  # 300: more samples than a product sums at once
@pytest.mark.parametrize("n_outputs", [1, 3])
def test_runs_on_shared_data_and_seeds_train_as_if_alone(n_samples, batch_size, n_outputs):
    """Two data sets, with three rates each, that leave one by one: batches are drawn once for each data set."""

    def make_runs(datas, validations):
        return [
            make_run(
                data,
                seed=4,
                validation=validation,
                batch_size=min(batch_size, len(data.targets)),
                learning_rate_init=0.01 * rate,
                max_iter=3 + rate,
                alpha=0.1 * rate,
            )
            for data, validation in zip(datas, validations, strict=True)
            for rate in (1, 2, 3)
        ]

    datas = [
        make_data(n_samples=number, n_outputs=n_outputs, seed=seed, weighted=seed == 1)
        for seed, number in enumerate(n_samples)
    ]
    validations = [make_data(n_samples=number, n_outputs=n_outputs, seed=number) for number in (50, 53)]
    together, alone = make_runs(datas, validations), make_runs(datas, validations)
    (stack,) = make_stacks(together)
    assert len(stack) == len(together)
    train(stack)
    for run in alone:
        train([run])
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one.buffer.flat, other.buffer.flat, rtol=1e-9, atol=1e-12)
        assert one.n_epochs == other.n_epochs
        np.testing.assert_allclose(one.history.losses, other.history.losses, rtol=1e-9)
        np.testing.assert_allclose(one.history.validation_losses, other.history.validation_losses, rtol=1e-9)
        assert torch.equal(one.generator.get_state(), other.generator.get_state())


def test_stacks_hold_what_is_alike_and_no_more_than_pays():
    data = make_data()
    runs = [make_run(data, seed=seed) for seed in range(3)]
    others = [make_run(data, solver="lbfgs"), make_run(data, sizes=(9,)), make_run(data, solver="lbfgs")]
    assert sorted(len(stack) for stack in make_stacks([*runs, *others])) == [1, 1, 1, 3]
    wide = [make_run(make_data(n_samples=500), seed=seed, sizes=(1000,), batch_size=500) for seed in range(3)]
    assert [len(stack) for stack in make_stacks(wide)] == [1, 1, 1]


@pytest.mark.parametrize(
    ("n_free", "expected"),
    [(2**40, 2**30 // (50 * 9 * 4)), (2 * 1000 * (6 * 50 * 9 * 4 + 8 * 57 * 4), 1000), (1000, 1)],
    ids=["enough memory", "little", "less than for one"],
)
def test_stacks_on_a_device_fit_in_its_free_memory(n_free, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (n_free - 300, 2**40))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 500)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 200)
    run = make_run(make_data(dtype=torch.float32), batch_size=50)
    assert run.buffer.sizes == (5, 8, 1)
    assert count_models(run) == 2**20 // (50 * 9 * 4)
    run.buffer.flat = run.buffer.flat.to("meta")
    assert count_models(run) == expected


@pytest.mark.parametrize(("batch_size", "max_iter"), [(100, 600), (5, 30)])
def test_what_a_penalty_shrinks_becomes_zero_before_it_is_no_longer_normal(batch_size, max_iter):
    data = make_data(dtype=torch.float32)
    data.inputs[:, 2:] = 0  # nothing but the penalty moves their weights
    run = make_run(data, sizes=(3,), solver="sgd", batch_size=batch_size, alpha=20.0 * batch_size, max_iter=max_iter)
    train([run])
    for values in (run.buffer.flat, *run.solver_state.values()):
        assert ((values == 0) | (values.abs() >= torch.finfo(torch.float32).tiny)).all()
    weight = run.buffer.as_coeffs().weights[0]
    assert (weight[2:] == 0).all()
    assert (weight[:2] != 0).any()
