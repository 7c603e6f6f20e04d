"""The connection between the processes: a group of `torch.distributed` that serves one `data_parallel`."""

import os
import pickle
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import torch.distributed as dist
from torch import Tensor

from ..exceptions import RankError

T = TypeVar("T")


class Connection:
    """Connects the processes that train a model together.

    Parameters
    ----------
    group : ProcessGroup
        Of the backend gloo, which also takes tensors of CUDA devices.
    timeout : float
        Seconds after which the group gives up waiting.
    """

    def __init__(self, group: Any, timeout: float) -> None:
        self.group, self.timeout = group, timeout
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.owner = os.getpid(), threading.get_ident()
        self.is_training = False  # whether the current fit has begun to train, where the steps tell of errors

    def check_owner(self) -> None:
        """Raise RuntimeError in another thread than the one that made the connection, or in a forked process."""
        if self.owner != (os.getpid(), threading.get_ident()):
            raise RuntimeError(
                "Inside data_parallel, fit must be called by the thread that entered it, got a call by another thread "
                "or process. Leave n_jobs=None there, and use no fused_fits."
            )

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks, in their order. Raise RankError if one of them has failed."""
        answers = self._exchange((True, value))
        for rank, (is_value, answer) in enumerate(answers):
            if not is_value:
                raise RankError(
                    f"Rank {rank} of data_parallel failed, so rank {self.rank} stops, too. Its error: {answer}"
                )
        return [answer for _, answer in answers]

    def announce(self, error: Exception) -> None:
        """Make the others, which wait in `gather`, fail as well."""
        with suppress(RankError):  # no rank waits any more
            self._exchange((False, f"{type(error).__name__}: {error}"))

    def add_up(self, values: Tensor) -> Tensor:
        """Replace values by their sums over all ranks, in place, and return them. All get the same sums."""
        with self._explain_loss():
            dist.all_reduce(values, group=self.group)
        return values

    def copy_first(self, values: Tensor) -> None:
        """Replace values by those of rank 0, in place."""
        with self._explain_loss():
            dist.broadcast(values, src=0, group=self.group)

    def close(self) -> None:
        """End the connection. The others, which wait for this process, fail."""
        if self.group is not None:
            group, self.group = self.group, None
            dist.destroy_process_group(group)

    def _exchange(self, value: Any) -> list[Any]:
        answers: list[Any] = [None] * self.size
        with self._explain_loss():
            dist.all_gather_object(answers, value, group=self.group)
        return answers

    @contextmanager
    def _explain_loss(self) -> Iterator[None]:
        """Raise RankError where the connection is lost, or was ended."""
        if self.group is None:
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


def get_reason(error: Exception) -> str:
    """Return the first line of a message of ``torch.distributed``, whose next ones list the calls in its C++ code."""
    return str(error).partition("\n")[0]
