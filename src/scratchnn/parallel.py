"""Fits of several processes, each on its own rows: the context `data_parallel`."""

import math
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import count
from numbers import Real
from typing import Any

import torch
import torch.distributed as dist

from .training.ranks import ALONE, ConnectedRanks, RankError, Ranks, get_ranks, get_reason, use_ranks

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
        Seconds that a process waits for the others: until they come to the context, or have read their rows and come to
        the same call of ``fit``. Then it raises an error.

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
        If another process fails, ends, or lets this one wait for longer than ``timeout``; in `ScratchNNClassifier.fit`
        also if another thread calls it.

    See Also
    --------
    Checkpoint : Lets the processes continue after one of them has died.

    Notes
    -----
    The context joins the process group of ``torch.distributed`` if there is one. Otherwise it makes one from torchrun's
    environment, and ends it at the end: with gloo on the CPU, and NCCL where each process has a CUDA device of its own,
    which becomes its current device. It can be entered several times, also after an error, by all processes as often.
    """
    if isinstance(timeout, bool) or not isinstance(timeout, Real) or not 0 < timeout < math.inf:
        raise ValueError(f"timeout must be a positive number of seconds, got {timeout!r}. Use for example 60.")
    if get_ranks() is not ALONE:
        raise ValueError("data_parallel must not be used inside data_parallel, got one inside another. Leave one out.")
    is_new = not dist.is_initialized()
    try:
        ranks = _connect(is_new, float(timeout))
        try:
            with use_ranks(ranks):
                yield ranks
                ranks.gather(None)  # all processes leave together
        finally:
            ranks.close()
    finally:
        if is_new and dist.is_initialized():
            dist.destroy_process_group()


def _connect(is_new: bool, timeout: float) -> ConnectedRanks:
    """Return the processes of the default process group, which is made first if it ``is_new``."""
    limit = timedelta(seconds=timeout)
    try:
        if is_new:
            _make_process_group(limit)
        backends = ["gloo", "nccl"] if "nccl" in dist.get_backend_config() else ["gloo"]
        return ConnectedRanks([dist.new_group(backend=backend, timeout=limit) for backend in backends], timeout)
    except RuntimeError as error:
        raise RankError(
            f"data_parallel has not found all processes within timeout={timeout:g} seconds: one has ended, or has not "
            f"come to the context. Start all processes again, or raise timeout. {get_reason(error)}"
        ) from error


def _make_process_group(limit: timedelta) -> None:
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
    key = (os.getpid(), *(os.environ[name] for name in _VARIABLES))
    if key not in _stores:
        _stores[key] = _open_store(limit), count()
    store, numbers = _stores[key]
    store.set_timeout(limit)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if has_own_device else "gloo",
        store=dist.PrefixStore(f"data_parallel {next(numbers)}", store),  # type: ignore[attr-defined]
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        timeout=limit,
    )


# The stores in which the processes find one another's addresses, and the numbers of the groups made with each. A store
# is kept until the process ends: another one at the same port might meet processes that still use the first.
_stores: dict[tuple[Any, ...], tuple[Any, Iterator[int]]] = {}


def _open_store(limit: timedelta) -> Any:
    """Return a store that rank 0 of these processes has made.

    The store of torchrun's agent also holds the addresses of processes that it has started anew since, which PyTorch
    would take for those of the new ones. It serves only to tell the port of the new store.
    """
    store, rank, size = next(dist.rendezvous("env://", timeout=limit))  # type: ignore[attr-defined]
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return store
    address, name = os.environ["MASTER_ADDR"], "port of data_parallel"
    options = {"world_size": size, "timeout": limit, "wait_for_workers": False}
    if rank == 0:
        own = dist.TCPStore(address, 0, is_master=True, **options)  # type: ignore[attr-defined]
        store.set(name, str(own.port))
        return own
    end = time.monotonic() + limit.total_seconds()
    while not _listens(address, port := int(store.get(name))):  # perhaps the port of a process that has ended
        if time.monotonic() > end:
            raise RuntimeError(f"No process listens at port {port} of {address}.")
        time.sleep(0.1)
    return dist.TCPStore(address, port, is_master=False, **options)  # type: ignore[attr-defined]


def _listens(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=1).close()
    except OSError:
        return False
    return True
