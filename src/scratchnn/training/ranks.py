"""Processes that train one model together, each on its own rows: the ranks of `torch.distributed`.

A process that trains alone is the only rank of `ALONE`, so that all code may ask "of all ranks" without a condition.
"""

import functools
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, ParamSpec, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")
P = ParamSpec("P")


class RankError(RuntimeError):
    """Another process of `data_parallel` failed or has gone."""


def get_reason(error: Exception) -> str:
    """Return the first line of a message of ``torch.distributed``, whose next ones list the calls in its C++ code."""
    return str(error).partition("\n")[0]


class Ranks:
    """The processes that train a model: this one alone. `ConnectedRanks` are several.

    Attributes
    ----------
    rank : int
        The number of this process among them.
    size : int
        How many there are.
    """

    rank, size = 0, 1

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks, in their order."""
        return [value]

    def broadcast(self, value: T) -> T:
        """Return the value of rank 0."""
        return value

    def join(self, values: Tensor) -> Tensor:
        """Return the rows of all ranks, in their order, on the device of ``values``."""
        return values

    def add_up(self, values: Tensor) -> Tensor:
        """Replace values by their sums over all ranks, in place, and return them."""
        return values

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any rank."""
        return any(self.gather(flag))

    def announce(self, error: Exception) -> None:
        """Make the others, which wait in `gather`, fail as well."""

    def close(self) -> None:
        """End the connection. The others, which wait for this process, fail."""


ALONE = Ranks()


class ConnectedRanks(Ranks):
    """Several processes, connected by groups of ``torch.distributed``.

    Parameters
    ----------
    groups : list of ProcessGroup
        The first moves values between CPUs, and the last adds up tensors on other devices.
    timeout : float
        Seconds after which the groups give up waiting.
    """

    def __init__(self, groups: list[Any], timeout: float) -> None:
        self.groups, self.timeout = groups, timeout
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.owner = os.getpid(), threading.get_ident()

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks, in their order. Raise RankError if one of them has failed."""
        answers = self._exchange((True, value))
        for rank, (is_value, answer) in enumerate(answers):
            if not is_value:
                raise RankError(
                    f"Rank {rank} of data_parallel failed, so rank {self.rank} stops, too. Its error: {answer}"
                )
        return [answer for _, answer in answers]

    def broadcast(self, value: T) -> T:
        """Return the value of rank 0, in all ranks. Raise RankError if one of them has failed."""
        self.gather(None)
        values = [value if self.rank == 0 else None]
        with self._explain_loss():
            dist.broadcast_object_list(values, src=0, group=self.groups[0])
        return cast(T, values[0])

    def join(self, values: Tensor) -> Tensor:
        """Return the rows of all ranks, in their order, on the device of ``values``."""
        return torch.cat([torch.from_numpy(array) for array in self.gather(values.cpu().numpy())]).to(values.device)

    def add_up(self, values: Tensor) -> Tensor:
        """Replace values by their sums over all ranks, in place, and return them. All get the same sums."""
        with self._explain_loss():
            dist.all_reduce(values, group=self.groups[0 if values.device.type == "cpu" else -1])
        return values

    def announce(self, error: Exception) -> None:
        """Make the others, which wait in `gather`, fail as well."""
        with suppress(RankError):  # nobody waits any more
            self._exchange((False, f"{type(error).__name__}: {error}"))

    def close(self) -> None:
        """End the connection. The others, which wait for this process, fail."""
        while self.groups:
            dist.destroy_process_group(self.groups.pop())

    def _exchange(self, value: Any) -> list[Any]:
        answers: list[Any] = [None] * self.size
        with self._explain_loss():
            dist.all_gather_object(answers, value, group=self.groups[0])
        return answers

    @contextmanager
    def _explain_loss(self) -> Iterator[None]:
        """Raise RankError where the connection is lost, or was ended."""
        if not self.groups:
            raise RankError(
                f"Rank {self.rank} has left the others of data_parallel after an error or an interrupt. Start all "
                "processes again."
            )
        try:
            yield
        except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
            self.close()
            raise RankError(
                f"Rank {self.rank} of data_parallel has lost the others: a process ended or failed, whose own output "
                f"says why, or one did not come to the same call of fit within timeout={self.timeout:g} seconds. "
                f"Start all processes again, or raise timeout. {get_reason(error)}"
            ) from error


_active: Ranks = ALONE


def get_ranks() -> Ranks:
    """Return the ranks that this thread's fits belong to.

    Raises
    ------
    RuntimeError
        If another thread, or the process that this one was forked from, has entered `data_parallel`.
    """
    if isinstance(_active, ConnectedRanks) and _active.owner != (os.getpid(), threading.get_ident()):
        raise RuntimeError(
            "Inside data_parallel, fit must be called by the thread that entered it, got a call by another thread or "
            "process. Leave n_jobs=None there, and use no fused_fits."
        )
    return _active


@contextmanager
def use_ranks(ranks: Ranks) -> Iterator[Ranks]:
    """Let the fits of this thread belong to the ranks."""
    global _active
    _active = ranks
    try:
        yield ranks
    finally:
        _active = ALONE


def failing_together(function: Callable[P, T]) -> Callable[P, T]:
    """Return the function with its errors announced to the other ranks, which wait for this one in `Ranks.gather`."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        ranks = get_ranks()
        try:
            return function(*args, **kwargs)
        except RankError:
            raise
        except Exception as error:
            ranks.announce(error)
            raise

    return call
