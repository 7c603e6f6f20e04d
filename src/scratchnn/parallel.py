"""Fits of several processes, each on its own rows: the context `data_parallel`."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from numbers import Real

import torch
import torch.distributed as dist

from .training.ranks import ALONE, ConnectedRanks, Ranks, get_ranks, use_ranks

_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # that torchrun sets


@contextmanager
def data_parallel(*, timeout: float = 60) -> Iterator[Ranks]:
    """Let the processes of ``torchrun`` train each model together, each on its own rows.

    All processes run the same program. Inside this context each passes a part of the rows to `ScratchNNClassifier.fit`,
    and all end with the same model. With all rows in a batch, it is the model of one process with all rows, up to
    rounding.

    Parameters
    ----------
    timeout : float, default=60
        Seconds that a process waits for the others, for example until they have read their rows and come to the same
        call of ``fit``. Then it raises an error.

    Yields
    ------
    ranks : Ranks
        ``ranks.rank`` is the number of this process, from 0, and ``ranks.size`` how many there are.

    Raises
    ------
    ValueError
        If ``timeout`` is not a positive number, if there is neither a process group nor torchrun's environment, inside
        another `data_parallel`, or in `ScratchNNClassifier.fit` if parameters or columns of the processes differ, or
        for what is not supported: solver 'lbfgs', ``partial_fit``, ScratchNNClassifierCV, `fused_fits`.
    RuntimeError
        In `ScratchNNClassifier.fit`, if another process fails, ends, or lets this one wait for longer than ``timeout``,
        or if another thread calls ``fit``.

    Notes
    -----
    The context joins the process group of ``torch.distributed`` if there is one. Otherwise it makes one from torchrun's
    environment, and ends it at the end: with gloo on the CPU, and NCCL where each process has a CUDA device of its own,
    which becomes its current device.
    """
    if isinstance(timeout, bool) or not isinstance(timeout, Real) or not 0 < timeout < math.inf:
        raise ValueError(f"timeout must be a positive number of seconds, got {timeout!r}. Use for example 60.")
    if get_ranks() is not ALONE:
        raise ValueError("data_parallel must not be used inside data_parallel, got one inside another. Leave one out.")
    is_new = not dist.is_initialized()
    if is_new:
        _make_process_group()
    try:
        backends = ["gloo", "nccl"] if "nccl" in dist.get_backend_config() else ["gloo"]
        limit = timedelta(seconds=float(timeout))
        groups = [dist.new_group(backend=backend, timeout=limit) for backend in backends]
        ranks = ConnectedRanks(groups, float(timeout))
        try:
            with use_ranks(ranks):
                yield ranks
                ranks.gather(None)  # all processes leave together
        finally:
            ranks.close()
    finally:
        if is_new:
            dist.destroy_process_group()


def _make_process_group() -> None:
    """Make the default process group from torchrun's environment."""
    missing = [name for name in _VARIABLES if name not in os.environ]
    if missing:
        raise ValueError(
            "data_parallel must be entered in a process that torchrun started, or after "
            f"torch.distributed.init_process_group, got an environment without {', '.join(missing)}. Start the program "
            "with: torchrun --nproc-per-node 2 train.py"
        )
    local_rank, n_local = (int(os.environ.get(name, "0")) for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    has_own_device = dist.is_nccl_available() and 0 < n_local <= torch.cuda.device_count()
    if has_own_device:
        torch.cuda.set_device(local_rank)
    dist.init_process_group("cpu:gloo,cuda:nccl" if has_own_device else "gloo")
