"""The connection between the processes: a group of `torch.distributed` that serves one `data_parallel`.

An error of one rank ends a call of fit in all of them. Outside the steps of training, all exchange values by `gather`
alone. A rank that fails announces its error in place of its next value, so all ranks learn of it in the same exchange,
which is their last one in this call. A rank that fails within a step closes its connection.
"""

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
FIT, END, ERROR = "a call of fit", "the end of the context", "an error"  # where a rank is when it exchanges a value


class Connection:
    """Connects the processes, by a ``group`` of the backend gloo that waits ``timeout`` seconds at most."""

    def __init__(self, group: Any, timeout: float) -> None:
        self.group, self.timeout = group, timeout
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.owner = os.getpid(), threading.get_ident()
        self.has_failed = False  # whether all ranks know that the current call of fit has failed

    def check_owner(self) -> None:
        """Raise RuntimeError in another thread than the one that made the connection, or in a forked process."""
        if self.owner != (os.getpid(), threading.get_ident()):
            raise RuntimeError(
                "Inside data_parallel, fit must be called by the thread that entered it, got a call by another thread "
                "or process. Leave n_jobs=None there, and do not use fused_fits."
            )

    def gather(self, value: T, place: str = FIT) -> list[T]:
        """Return the values of all ranks, in their order.

        Raise RankError if another rank announces an error or is lost, and ValueError if it is at another place.
        """
        answers = self._exchange((place, value))
        self.has_failed = True
        for rank, (other, answer) in enumerate(answers):
            if other == ERROR:
                raise RankError(
                    f"Rank {rank} of data_parallel failed, so rank {self.rank} stops, too. Its error: {answer}"
                )
        for rank, (other, _) in enumerate(answers):
            if other != place:
                raise ValueError(
                    f"fit must be called as often in all processes of data_parallel, got {place} in rank {self.rank} "
                    f"and {other} in rank {rank}. Fit other models outside the context."
                )
        self.has_failed = False
        return [answer for _, answer in answers]

    def announce(self, error: Exception) -> None:
        """Make the other ranks, which wait in `gather`, fail as well, unless they know that the call has failed."""
        if not self.has_failed:
            self.has_failed = True
            with suppress(RankError):  # no rank waits for an answer
                self._exchange((ERROR, f"{type(error).__name__}: {error}"))

    def add_up(self, values: Tensor) -> Tensor:
        """Replace values by their sums over all ranks, in place, and return them. All get the same bits."""
        with self._explain_loss():
            dist.all_reduce(values, group=self.group)
        return values

    def close(self) -> None:
        """End the connection. The other ranks, which wait for this process, fail."""
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
        """Raise RankError if the connection is lost or closed."""
        if self.group is None:
            raise RankError(
                f"Rank {self.rank} has left the others of data_parallel after an error or an interrupt. Start all "
                "processes again."
            )
        try:
            yield
        except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
            self.close()
            reason = str(error).partition("\n")[0]  # the next lines list the calls in PyTorch's C++ code
            raise RankError(
                f"Rank {self.rank} of data_parallel has lost the others: a process ended or failed, see its output, "
                f"or did not reach the same call of fit within timeout={self.timeout:g} seconds. "
                f"Start all processes again, or raise timeout. {reason}"
            ) from error
