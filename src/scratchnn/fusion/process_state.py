"""The state of the thread and the process that each task has for itself.

State is kept by contexts that change nothing: they are entered when a task is left, and their exit restores the state.
"""

import random
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, redirect_stderr, redirect_stdout
from typing import Any, NamedTuple

import joblib
import numpy as np
import torch
from sklearn import get_config, set_config

from ..training.threads import get_block, leave_blocks, use_threads


class GlobalGenerator(NamedTuple):
    """A global random generator."""

    read: Callable[[], Any]
    write: Callable[[Any], object]
    draw: Callable[[], int]
    seed: Callable[[np.random.SeedSequence], object]

    def peek(self) -> int:
        """Return the next draw, without a change of the state."""
        state = self.read()
        number = self.draw()
        self.write(state)
        return number


def _write_numpy(state: Any) -> None:
    generator, values = state
    np.random.set_bit_generator(generator)  # which forgets the second number of a pair of normal ones
    if values["has_gauss"]:
        np.random.set_state(values)  # noqa: NPY002


GENERATORS = (
    GlobalGenerator(
        random.getstate,
        random.setstate,
        lambda: random.getrandbits(128),
        lambda seed: random.seed(seed.generate_state(4).tobytes()),
    ),
    GlobalGenerator(
        lambda: (np.random.get_bit_generator(), np.random.get_state(legacy=False)),  # noqa: NPY002
        _write_numpy,
        lambda: int.from_bytes(np.random.bytes(16), "little"),  # noqa: NPY002
        lambda seed: np.random.set_bit_generator(np.random.MT19937(seed)),
    ),
    GlobalGenerator(
        torch.get_rng_state,
        torch.set_rng_state,
        lambda: int(torch.randint(2**62, ())),
        lambda seed: torch.default_generator.manual_seed(int(seed.generate_state(1, np.uint64)[0])),
    ),
)


class _KeptConfig:
    """A context that restores scikit-learn's configuration. `sklearn.config_context` takes nine times as long."""

    def __enter__(self) -> None:
        self.found = get_config()

    def __exit__(self, *error: object) -> None:
        if get_config() != self.found:
            set_config(**self.found)


class TaskState:
    """The state of a task, or that of the caller outside of tasks.

    Parameters
    ----------
    owner : TaskState or None
        The state that this one begins with: that of the task, or the caller, which has made the parallel call.
    index : int
        Which task of the call it is.
    entropies : sequence of int
        What seeds the task's own generators, with the index. Without them, the task shares the global ones.
    """

    def __init__(self, owner: "TaskState | None" = None, index: int = 0, entropies: Sequence[int] = ()) -> None:
        self.owner, self.index, self.entropies = owner, index, entropies
        self.contexts: list[AbstractContextManager[Any, Any]] | None = None  # of the state while it is not active
        self.generators: list[Any] = []
        self.grad_modes: tuple[bool, bool] | None = None
        self.blocks: list[use_threads] = []

    @contextmanager
    def grads_and_threads(self) -> Iterator[None]:
        """Give the thread the task's modes of gradients and numbers of PyTorch's threads, within the context."""
        inference, grad = self.grad_modes or read_grad_modes()
        outer = get_block()
        for block in self.blocks:
            block.__enter__()
        with torch.inference_mode(inference):
            torch.set_grad_enabled(grad)
            yield
            self.grad_modes = read_grad_modes()
        self.blocks = leave_blocks(outer)

    def keep(self, of_process: bool) -> None:
        """Keep the state that the thread has."""
        self.contexts = [warnings.catch_warnings(), joblib.parallel_config(), _KeptConfig()]
        if of_process:
            self.contexts += [redirect_stdout(sys.stdout), redirect_stderr(sys.stderr)]
        for context in self.contexts:
            context.__enter__()

    def restore(self) -> None:
        """Give the thread the kept state."""
        for context in self.contexts or ():
            context.__exit__(None, None, None)
        self.contexts = None

    def seed(self) -> None:
        """Seed the global generators for the task."""
        for generator, entropy in zip(GENERATORS, self.entropies, strict=False):
            generator.seed(np.random.SeedSequence(entropy, spawn_key=(self.index,)))

    def find_used(self) -> list[bool]:
        """Return which generators the task has used. Their state is spoiled: the task has ended."""
        numbers = [generator.draw() for generator, _ in zip(GENERATORS, self.entropies, strict=False)]
        self.seed()
        return [generator.draw() != number for generator, number in zip(GENERATORS, numbers, strict=False)]


class StateSwitch:
    """Whose state the thread has: it changes only where another task, or the caller, needs its own.

    Parameters
    ----------
    of_process : bool
        Whether tasks have streams and generators of their own.
    """

    def __init__(self, of_process: bool) -> None:
        self.of_process = of_process
        self.caller = self.active = TaskState()

    def use(self, state: TaskState) -> None:
        """Give the thread a state, and keep the one that it has."""
        if state is self.active:
            return
        left, self.active = self.active, state
        left.keep(self.of_process)
        if self.of_process:
            left.generators = [generator.read() for generator in GENERATORS]
        if state.contexts is not None:
            state.restore()
            for generator, kept in zip(GENERATORS, state.generators, strict=False):
                generator.write(kept)
        elif state.owner is not None:  # the task begins
            state.owner.restore()
            state.owner.keep(self.of_process)
            state.seed()


def read_grad_modes() -> tuple[bool, bool]:
    """Return whether PyTorch's inference mode is on, and whether it records gradients."""
    return torch.is_inference_mode_enabled(), torch.is_grad_enabled()
