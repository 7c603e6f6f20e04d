"""Runs to train, without an estimator."""

import dataclasses
import math

import torch

from scratchnn.network import init_coeffs
from scratchnn.training import Data, Hyperparameters, TrainingRun
from scratchnn.training.buffers import pack

HYPERPARAMETERS = Hyperparameters(
    loss="log_loss",
    solver="adam",
    alpha=0.01,
    batch_size=32,
    learning_rate="constant",
    learning_rate_init=0.01,
    dropout=0.0,
    power_t=0.5,
    max_iter=6,
    full_schedule=False,
    shuffle=True,
    tol=0.0,
    momentum=0.9,
    nesterovs_momentum=True,
    early_stopping=False,
    beta_1=0.9,
    beta_2=0.999,
    epsilon=1e-8,
    n_iter_no_change=math.inf,
    max_fun=1000,
    verbose=False,
)


def make_data(n_samples=100, n_features=5, n_outputs=1, seed=0, weighted=False, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    indeps = torch.randn(n_samples, n_features, generator=generator, dtype=dtype)
    deps = (indeps[:, :n_outputs] + 0.3 * torch.randn(n_samples, n_outputs, generator=generator, dtype=dtype) > 0).to(
        dtype
    )
    if not weighted:
        return Data(indeps, deps)
    weights = torch.rand(n_samples, generator=generator, dtype=dtype) + 0.5
    return Data(indeps, deps, weights / weights.mean(), weights.mean().item())


def make_run(data=None, seed=0, validation=None, sizes=(8,), **changes):
    data = make_data() if data is None else data
    generator = torch.Generator().manual_seed(seed)
    coeffs = init_coeffs(
        data.inputs.shape[1], sizes, data.targets.shape[1], generator=generator, init="glorot_uniform", hidden_bias=True
    )
    buffer = pack(coeffs)
    buffer.flat = buffer.flat.to(data.inputs.dtype)
    run = TrainingRun(data, dataclasses.replace(HYPERPARAMETERS, **changes), buffer, generator, validation=validation)
    run.history.rate = run.hyperparameters.learning_rate_init
    return run
