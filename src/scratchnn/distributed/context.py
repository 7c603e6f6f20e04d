"""The context `data_parallel`."""

import atexit
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from numbers import Real
from typing import NamedTuple

import torch.distributed as dist

from ..exceptions import RankError
from ..tables.summary import get_exchange, set_exchange
from ..training import trainer
from .connection import Connection, get_reason
from .exchange import ProcessExchange
from .steps import train_jointly

_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # that torchrun sets


class Ranks(NamedTuple):
    """Which of the processes that train together this one is, from 0, and how many there are."""

    rank: int
    size: int


@contextmanager
def data_parallel(*, timeout: float = 60) -> Iterator[Ranks]:
    """Let the processes of ``torchrun`` train each model together, each on its own samples.

    All processes run the same program. Inside this context each passes a part of the samples to
    `ScratchNNClassifier.fit`, and all end with the same model. With all samples in a minibatch, it is the model of one
    process with all samples, up to rounding.

    Parameters
    ----------
    timeout : float, default=60
        Seconds that a process waits for the others: until they come to the context, or have read their samples and come
        to the same call of ``fit``. Then it raises an error.

    Yields
    ------
    ranks : Ranks
        ``ranks.rank`` is the number of this process, from 0, and ``ranks.size`` how many there are.

    Raises
    ------
    ValueError
        If ``timeout`` is not a positive number, if there is neither a process group nor torchrun's environment, inside
        another `data_parallel`, or in `ScratchNNClassifier.fit` if parameters or columns of the processes differ, or
        for what is not supported: solver 'lbfgs', ``scoring``, callbacks except `Checkpoint`, ``partial_fit``,
        `fused_fits`, and processes that torchrun has restarted.
    RankError
        A RuntimeError, if another process fails, ends, or lets this one wait for longer than ``timeout``.

    See Also
    --------
    Checkpoint : Lets the processes continue after one of them has died.

    Notes
    -----
    The context uses the process group of ``torch.distributed`` if there is one. Otherwise it makes one with gloo from
    torchrun's environment, which lasts until the process ends. All processes must enter the context as often.
    """
    if isinstance(timeout, bool) or not isinstance(timeout, Real) or not 0 < timeout < math.inf:
        raise ValueError(f"timeout must be a positive number of seconds, got {timeout!r}. Use for example 60.")
    if get_exchange() is not None:
        raise ValueError("data_parallel must not be used inside data_parallel, got one inside another. Leave one out.")
    connection = _connect(float(timeout))
    train = partial(train_jointly, connection)
    token = trainer.set(train)
    set_exchange(ProcessExchange(connection, train))
    try:
        yield Ranks(connection.rank, connection.size)
        connection.gather(None)  # all processes leave together
    finally:
        set_exchange(None)
        trainer.reset(token)
        connection.close()


def _connect(timeout: float) -> Connection:
    """Connect the processes of the default process group, which is made first if there is none."""
    limit = timedelta(seconds=timeout)
    try:
        if not dist.is_initialized():
            _check_environment()
            dist.init_process_group("gloo", timeout=limit)
            atexit.register(_end_process_group)
        return Connection(dist.new_group(backend="gloo", timeout=limit), timeout)
    except RuntimeError as error:
        raise RankError(
            f"data_parallel has not found all processes within timeout={timeout:g} seconds: one has ended, or has not "
            f"come to the context. Start all processes again, or raise timeout. {get_reason(error)}"
        ) from error


def _check_environment() -> None:
    """Raise ValueError if torchrun has not started this process, or has started it again."""
    missing = [name for name in _VARIABLES if name not in os.environ]
    if missing:
        raise ValueError(
            "data_parallel must be entered in a process that torchrun started, or after "
            f"torch.distributed.init_process_group, got an environment without {', '.join(missing)}. Start the program "
            "with: torchrun --nproc-per-node 2 train.py"
        )
    n_restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if n_restarts != "0":
        raise ValueError(
            f"data_parallel must be entered in a process that torchrun starts for the first time, got restart "
            f"{n_restarts}. Leave --max-restarts out, and start torchrun again: a Checkpoint continues the fit."
        )


def _end_process_group() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
