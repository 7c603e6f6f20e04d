"""The progress of a run as arrays and plain values, from which a run of another process continues to the same bits."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .ranks import ALONE, Ranks
from .run import TrainingRun

CURVES = ["losses", "training_losses", "validation_losses", "validation_scores"]
COUNTS = ["best_loss", "best_score", "n_no_change", "n_samples_seen", "n_updates", "rate"]  # of a history
OF_SOLVER = "solver_"  # begins the names of the solver's arrays

Arrays = dict[str, NDArray[Any]]
Values = dict[str, Any]


def get_progress(run: TrainingRun, flat: Tensor, generator: torch.Generator) -> tuple[Arrays, Values]:
    """Return the progress of a run at the end of an epoch.

    Parameters
    ----------
    run : TrainingRun
        The run.
    flat : Tensor of shape (n_coeffs,)
        Its coefficients after the epoch.
    generator : torch.Generator
        The generator that it draws from.

    Returns
    -------
    arrays : dict of str to ndarray
        Coefficients, moments of the solver, curves, and states of the generators, (n_ranks, n_bytes): of all processes
        that train the run together, which call this function together. They may share memory with the run.
    values : dict of str to int, float, str, dict or None
        The other fields that training changes.
    """
    # First, because the others wait here: what fails later in one rank, `JointSteps.agree_on_end` tells them.
    generators = np.stack(_get_ranks(run).gather(generator.get_state().numpy()))
    arrays = {"coefficients": flat.cpu().numpy(), "generators": generators}
    arrays |= {f"{OF_SOLVER}{name}": buffer.cpu().numpy() for name, buffer in run.solver_state.items()}
    arrays |= {name: np.array(getattr(run.history, name), np.float64) for name in CURVES}
    if run.best_flat is not None:
        arrays["best_coefficients"] = run.best_flat.cpu().numpy()
    values = {
        "n_epochs": run.n_epochs,
        "n_updates_before": run.n_updates_before,
        "warning": run.warning,
        "history": {name: getattr(run.history, name) for name in COUNTS},
    }
    return arrays, values


def set_progress(run: TrainingRun, arrays: Arrays, values: Values) -> None:
    """Set the progress of a run, in place, to what `get_progress` returned for a run of equal data and settings."""
    flat = run.buffer.flat
    flat.copy_(torch.from_numpy(arrays["coefficients"]))
    run.generator.set_state(torch.from_numpy(arrays["generators"][_get_ranks(run).rank]))
    run.solver_state = {
        name.removeprefix(OF_SOLVER): torch.from_numpy(array).to(flat, copy=True)
        for name, array in arrays.items()
        if name.startswith(OF_SOLVER)
    }
    best = arrays.get("best_coefficients")
    run.best_flat = None if best is None else torch.from_numpy(best).to(flat, copy=True)
    for name in CURVES:
        setattr(run.history, name, arrays[name].tolist())
    for name, value in values["history"].items():
        setattr(run.history, name, value)
    run.n_epochs, run.n_updates_before, run.warning = values["n_epochs"], values["n_updates_before"], values["warning"]


def _get_ranks(run: TrainingRun) -> Ranks:
    return ALONE if run.joint is None else run.joint.ranks
