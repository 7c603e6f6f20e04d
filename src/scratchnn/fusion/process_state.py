"""The state of the thread and the process that each task has for itself.

State is kept by contexts that change nothing: they are entered when a task is left, and their exit restores the state.
"""

import pickle
import random
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import joblib
import numpy as np
import torch
from sklearn import get_config, set_config

from ..training.threads import get_block, leave_blocks, use_threads


class GlobalGenerator(NamedTuple):
    """A global random generator. States can be compared."""

    read: Callable[[], Any]
    write: Callable[[Any], None]
    draw: Callable[[], int]
    seed: Callable[[np.random.SeedSequence], object]

    def peek(self) -> int:
        """Return the next draw, without a change of the state."""
        state = self.read()
        number = self.draw()
        self.write(state)
        return number


def _read_numpy() -> bytes:
    return pickle.dumps(np.random.get_state(legacy=False))  # noqa: NPY002


def _write_numpy(state: bytes) -> None:
    np.random.set_state(pickle.loads(state))  # noqa: NPY002, RUF100


def _seed_numpy(seed: np.random.SeedSequence) -> None:
    kind = np.random.get_state(legacy=False)["bit_generator"]  # noqa: NPY002
    np.random.set_state(getattr(np.random, kind)(seed).state)  # noqa: NPY002


GENERATORS = (
    GlobalGenerator(
        random.getstate,
        random.setstate,
        lambda: random.getrandbits(128),
        lambda seed: random.seed(seed.generate_state(4).tobytes()),
    ),
    GlobalGenerator(
        _read_numpy,
        _write_numpy,
        lambda: int.from_bytes(np.random.bytes(16), "little"),  # noqa: NPY002
        _seed_numpy,
    ),
    GlobalGenerator(
        lambda: torch.get_rng_state().numpy().tobytes(),
        lambda state: torch.set_rng_state(torch.frombuffer(bytearray(state), dtype=torch.uint8)),
        lambda: int(torch.randint(2**62, ())),
        lambda seed: torch.default_generator.manual_seed(int(seed.generate_state(1, np.uint64)[0])),
    ),
)


class _KeptConfig:
    """A context that restores scikit-learn's configuration, as `sklearn.config_context` does in four times the time."""

    def __enter__(self) -> None:
        self.found = get_config()

    def __exit__(self, *error: object) -> None:
        if get_config() != self.found:
            set_config(**self.found)


class _KeptStreams:
    """A context that restores standard output and standard error."""

    def __enter__(self) -> None:
        self.found = sys.stdout, sys.stderr

    def __exit__(self, *error: object) -> None:
        sys.stdout, sys.stderr = self.found


class _KeptGenerators:
    """A context that restores the global random generators."""

    def __enter__(self) -> None:
        self.found = [generator.read() for generator in GENERATORS]

    def __exit__(self, *error: object) -> None:
        for generator, state in zip(GENERATORS, self.found, strict=True):
            generator.write(state)


Kept = Sequence[AbstractContextManager[Any, Any]]


def keep(of_process: bool) -> Kept:
    """Return contexts that restore the present state: that of the thread, and, if asked, that of the process."""
    contexts: list[Any] = [warnings.catch_warnings(), joblib.parallel_config(), _KeptConfig()]
    if of_process:
        contexts += [_KeptStreams(), _KeptGenerators()]
    for context in contexts:
        context.__enter__()
    return contexts


def restore(kept: Kept) -> None:
    """Restore the state."""
    for context in reversed(kept):
        context.__exit__(None, None, None)


def read_grad_modes() -> tuple[bool, bool]:
    """Return whether PyTorch's inference mode is on, and whether it records gradients."""
    return torch.is_inference_mode_enabled(), torch.is_grad_enabled()


class CallerState:
    """What the tasks of a parallel call begin with, beside the state of the task that made the call.

    ``of_process`` is whether tasks have generators and streams of their own.
    """

    def __init__(self, of_process: bool) -> None:
        self.of_process = of_process
        self.grad_modes = read_grad_modes()
        self.entropies = [generator.peek() for generator in GENERATORS] if of_process else []
        self.has_drawn = [False] * len(self.entropies)  # whether a task has used each generator

    def seed(self, index: int) -> None:
        """Seed the generators for a task."""
        for generator, entropy in zip(GENERATORS, self.entropies, strict=True):
            generator.seed(np.random.SeedSequence(entropy, spawn_key=(index,)))

    def advance(self) -> None:
        """Draw a number from each generator that tasks have used, so that those of the next call get other ones."""
        for generator, has_drawn in zip(GENERATORS, self.has_drawn, strict=False):
            if has_drawn:
                generator.draw()
        self.has_drawn = []


class TaskState:
    """The state of a task.

    Parameters
    ----------
    caller : CallerState
        That of the parallel call.
    owner : TaskState or None
        That of the task that made the call.
    index : int
        Which task of the call it is.
    """

    def __init__(self, caller: CallerState, owner: "TaskState | None", index: int) -> None:
        self.caller, self.owner, self.index = caller, owner, index
        self.kept: Kept | None = None
        self.grad_modes = caller.grad_modes
        self.blocks: list[use_threads] = []

    @contextmanager
    def active(self) -> Iterator[None]:
        """Give the thread the task's state within the context."""
        found = keep(self.caller.of_process)
        try:
            self._restore_or_begin()
            outer = get_block()
            for block in self.blocks:
                block.__enter__()
            with torch.inference_mode(self.grad_modes[0]):
                torch.set_grad_enabled(self.grad_modes[1])
                yield
                self.grad_modes = read_grad_modes()
            self.blocks = leave_blocks(outer)
            self.kept = keep(self.caller.of_process)
        finally:
            restore(found)

    def end(self) -> None:
        """Note which generators the task has used."""
        if self.caller.of_process and self.kept is not None:
            states = zip(self.kept[-1].found, self.first, strict=True)  # type: ignore[attr-defined]
            used = [state != first for state, first in states]
            self.caller.has_drawn = [a or b for a, b in zip(self.caller.has_drawn, used, strict=True)]
        self.kept = None

    def _restore_or_begin(self) -> None:
        if self.kept is not None:
            restore(self.kept)
            return
        if self.owner is not None and self.owner.kept is not None:
            restore(self.owner.kept)
            self.owner.kept = keep(self.caller.of_process)
        if self.caller.of_process:
            self.caller.seed(self.index)
            self.first = [generator.read() for generator in GENERATORS]
