"""The state of a run as arrays and plain values, from which a run of another process resumes, bit for bit."""

import numpy as np
import torch
from torch import Tensor

from ..training import TrainingRun
from .archive import Contents

SOLVER_PREFIX = "solver_"  # of the names of the solver's moments


def get_state(run: TrainingRun, flat: Tensor, generator: torch.Generator) -> Contents:
    """Return the state of a run whose coefficients are ``flat``, (n_coeffs,), in arrays that may share its memory."""
    history = vars(run.history)
    arrays = {name: np.array(curve, np.float64) for name, curve in history.items() if isinstance(curve, list)}
    arrays |= {f"{SOLVER_PREFIX}{name}": moments.cpu().numpy() for name, moments in run.solver_state.items()}
    arrays |= {"coefficients": flat.cpu().numpy(), "generator": generator.get_state().numpy()}
    if run.best_flat is not None:
        arrays["best_coefficients"] = run.best_flat.cpu().numpy()
    counts = {name: value for name, value in history.items() if name not in arrays}
    return Contents(arrays, {"n_epochs": run.n_epochs, "warning": run.warning, "history": counts})


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
    for name in vars(run.history):
        setattr(run.history, name, arrays[name].tolist() if name in arrays else values["history"][name])
    run.n_epochs, run.warning = values["n_epochs"], values["warning"]
