"""The process state of each task: random generators, warning filters, streams and settings.

A task begins with the state of its caller, and gets its own state back whenever it resumes.
"""

import random
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import joblib
import numpy as np
import torch
from sklearn import get_config, set_config


class GlobalGenerator(NamedTuple):
    """A global random generator."""

    read: Callable[[], Any]
    write: Callable[[Any], object]
    draw: Callable[[], int]
    seed: Callable[[int], object]


numpy_random: Any = np.random  # its stubs lack the functions below
tasks_bit_generator = np.random.MT19937()  # the caller's may be of a kind that `np.random.seed` refuses


def _write_numpy(state: Any) -> None:
    bit_generator, values = state
    numpy_random.set_bit_generator(bit_generator)
    numpy_random.set_state(values)


def _seed_numpy(seed: int) -> None:
    numpy_random.set_bit_generator(tasks_bit_generator)
    # Ten times as fast as a new bit generator.
    numpy_random.seed([seed >> shift & 0xFFFFFFFF for shift in (0, 32, 64, 96)])


GENERATORS = (
    GlobalGenerator(random.getstate, random.setstate, lambda: random.getrandbits(128), random.seed),
    GlobalGenerator(
        lambda: (numpy_random.get_bit_generator(), numpy_random.get_state(legacy=False)),
        _write_numpy,
        lambda: int.from_bytes(numpy_random.bytes(16), "little"),
        _seed_numpy,
    ),
    GlobalGenerator(
        torch.get_rng_state,
        torch.set_rng_state,
        lambda: int(torch.randint(2**62, ())),
        lambda seed: torch.default_generator.manual_seed(seed % 2**32),  # it would ignore the rest
    ),
)


class TaskState:
    """The state of a task, or that of the caller outside of tasks.

    A task begins with the state of its ``owner``, the task or the caller that has made the parallel call, and with
    generators seeded by ``seeds``. Without seeds, it shares the global generators.
    """

    def __init__(self, owner: "TaskState | None" = None, seeds: Sequence[int] = ()) -> None:
        self.owner, self.seeds = owner, seeds
        self.kept: Any = None  # to restore the state, while it is not active
        self.generators: list[Any] = []
        self.grad_modes: tuple[bool, bool] | None = None
        self.is_over = False  # the task has ended: nothing is kept

    @contextmanager
    def own_grad_modes(self) -> Iterator[None]:
        """Use the task's gradient modes within the context."""
        inherited = None if self.owner is None else self.owner.grad_modes
        inference, grad = self.grad_modes or inherited or (torch.is_inference_mode_enabled(), torch.is_grad_enabled())
        with torch.inference_mode(inference):
            torch.set_grad_enabled(grad)
            yield
            self.grad_modes = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    def keep(self) -> None:
        """Keep the current state of the thread."""
        contexts = warnings.catch_warnings(), joblib.parallel_config()  # the exit of each restores what it has found
        for context in contexts:
            context.__enter__()
        self.kept = contexts, get_config(), sys.stdout, sys.stderr

    def restore(self, of_process: bool) -> None:
        """Restore the kept state of the thread, and with ``of_process`` the streams of the process."""
        contexts, config, *streams = self.kept
        for context in contexts:
            context.__exit__(None, None, None)
        if get_config() != config:
            set_config(**config)
        if of_process:
            sys.stdout, sys.stderr = streams

    def seed(self) -> None:
        """Seed the global generators for the task."""
        for generator, seed in zip(GENERATORS, self.seeds, strict=False):
            generator.seed(seed)

    def find_used(self) -> list[bool]:
        """Return which generators the ended task has used. This changes the state of the generators."""
        numbers = [generator.draw() for generator in GENERATORS]
        self.seed()
        return [generator.draw() != number for generator, number in zip(GENERATORS, numbers, strict=True)]


def is_main_thread() -> bool:
    """Return whether this is the main thread, whose tasks do not share streams and generators with other threads."""
    return threading.current_thread() is threading.main_thread()


class StateSwitch:
    """Switches the thread between the states of tasks and caller, only when one of them needs its own state."""

    def __init__(self) -> None:
        self.of_process = is_main_thread()  # whether tasks have streams and generators of their own
        self.caller = self.active = TaskState()

    def use(self, state: TaskState) -> None:
        """Activate a state, and keep the current one."""
        if state is self.active:
            return
        if not self.active.is_over:
            self.active.keep()
            if self.of_process:
                self.active.generators = [generator.read() for generator in GENERATORS]
        self.active = state
        if state.kept is not None:
            state.restore(self.of_process)
            for generator, kept in zip(GENERATORS, state.generators, strict=False):
                generator.write(kept)
        elif state.owner is not None:  # the task begins
            state.owner.restore(self.of_process)
            state.owner.keep()
            state.seed()


def peek_seeds() -> Sequence[int]:
    """Return the seeds of the generators of tasks: the next draw of each global one. Empty if tasks share these."""
    seeds = []
    for generator in GENERATORS if is_main_thread() else ():
        state = generator.read()
        seeds.append(generator.draw())
        generator.write(state)
    return seeds


def draw_if(used: Sequence[bool]) -> None:
    """Draw from each generator that tasks have used, so that the tasks of the next call get other numbers."""
    for generator, is_used in zip(GENERATORS, used, strict=False):
        if is_used:
            generator.draw()
