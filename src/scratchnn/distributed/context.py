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
from .connection import END, Connection
from .exchange import ProcessExchange
from .steps import train_jointly


class Ranks(NamedTuple):
    """The rank of this process, from 0, and the number of processes that train together."""

    rank: int
    size: int


@contextmanager
def data_parallel(*, timeout: float = 60) -> Iterator[Ranks]:
    """Let the processes of ``torchrun`` train each model together, each on its own samples.

    All processes run the same program. Inside this context, each process passes its part of the samples to
    `ScratchNNClassifier.fit`, and all obtain the same model. If a minibatch has all samples, it is the model of one
    process with all samples, up to rounding.

    Parameters
    ----------
    timeout : float, default=60
        Seconds that a process waits for the others, at the beginning of the context and in ``fit``.

    Yields
    ------
    ranks : Ranks
        ``ranks.rank`` is the index of this process, and ``ranks.size`` the number of processes.

    Raises
    ------
    ValueError
        If ``timeout`` is not a positive number, if torchrun has not started this process, or has started it again; and
        in ``fit`` if parameters or columns of the processes differ, or are not supported, see the user guide.
    RankError
        If another process fails, ends, or lets this one wait for longer than ``timeout``.

    See Also
    --------
    Checkpoint : Lets the processes resume a fit after one of them has died.

    Notes
    -----
    The context uses the process group of ``torch.distributed`` if there is one. Otherwise it makes one with gloo from
    torchrun's environment, which lasts until the process ends. All processes must enter it equally often.
    """
    if isinstance(timeout, bool) or not isinstance(timeout, Real) or not 0 < timeout < math.inf:
        raise ValueError(f"timeout must be a positive number of seconds, got {timeout!r}. Use for example 60.")
    if get_exchange() is not None:
        raise ValueError("data_parallel contexts must not be nested.")
    connection = _connect(float(timeout))
    train = partial(train_jointly, connection)
    token = trainer.set(train)
    set_exchange(ProcessExchange(connection, train))
    try:
        yield Ranks(connection.rank, connection.size)
        connection.gather(None, END)  # all processes leave together
    except Exception as error:
        connection.announce(error)
        raise
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
            atexit.register(lambda: dist.is_initialized() and dist.destroy_process_group())
        return Connection(dist.new_group(backend="gloo", timeout=limit), timeout)
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]  # the next lines list the calls in PyTorch's C++ code
        raise RankError(
            f"data_parallel has not found all processes within timeout={timeout:g} seconds: one has ended, or has not "
            f"entered the context. Start all processes again, or raise timeout. {reason}"
        ) from error


def _check_environment() -> None:
    """Raise ValueError if torchrun has not started this process, or has started it again."""
    missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
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
            f"{n_restarts}. Leave out --max-restarts, and start torchrun again: a Checkpoint resumes the fit."
        )
