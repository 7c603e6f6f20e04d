"""The state of a run as arrays and plain values, from which a run of another process continues to the same bits."""

import numpy as np
import torch
from torch import Tensor

from ..training import TrainingRun
from .archive import Contents

CURVES = ["losses", "training_losses", "validation_losses", "validation_scores"]
COUNTS = ["best_loss", "best_score", "n_no_change", "n_samples_seen", "n_updates", "rate", "annealing"]  # of a history
SOLVER_PREFIX = "solver_"  # of the names of the solver's moments


def get_state(run: TrainingRun, flat: Tensor, generator: torch.Generator) -> Contents:
    """Return the state of a run at the end of an epoch. The arrays may share memory with the run.

    Parameters
    ----------
    run : TrainingRun
        The run.
    flat : Tensor of shape (n_coeffs,)
        Its coefficients after the epoch.
    generator : torch.Generator
        The generator that it draws from.
    """
    arrays = {"coefficients": flat.cpu().numpy(), "generator": generator.get_state().numpy()}
    arrays |= {f"{SOLVER_PREFIX}{name}": moments.cpu().numpy() for name, moments in run.solver_state.items()}
    arrays |= {name: np.array(getattr(run.history, name), np.float64) for name in CURVES}
    if run.best_flat is not None:
        arrays["best_coefficients"] = run.best_flat.cpu().numpy()
    values = {
        "n_epochs": run.n_epochs,
        "n_updates_before": run.n_updates_before,
        "warning": run.warning,
        "history": {name: getattr(run.history, name) for name in COUNTS},
    }
    return Contents(arrays, values)


def set_state(run: TrainingRun, state: Contents) -> None:
    """Set the state of a run, in place, to what `get_state` returned for a run of equal data and parameters."""
    arrays, values = state
    flat = run.buffer.flat
    flat.copy_(torch.from_numpy(arrays["coefficients"]))
    run.generator.set_state(torch.from_numpy(arrays["generator"]))
    run.solver_state = {
        name.removeprefix(SOLVER_PREFIX): torch.from_numpy(array).to(flat, copy=True)
        for name, array in arrays.items()
        if name.startswith(SOLVER_PREFIX)
    }
    best = arrays.get("best_coefficients")
    run.best_flat = None if best is None else torch.from_numpy(best).to(flat, copy=True)
    for name in CURVES:
        setattr(run.history, name, arrays[name].tolist())
    for name, value in values["history"].items():
        setattr(run.history, name, value)
    run.n_epochs, run.n_updates_before, run.warning = values["n_epochs"], values["n_updates_before"], values["warning"]
