"""Settings of the process that are each task's own while it has the turn.

What a task has changed when it passes the turn is kept for it, and the process gets back what it had. What a task has
not changed is what the process has. A change that is there when a task ends stays, as it would in a sequence of calls.

The warning filters and the global random generators differ in one point each: filters are never handed on, and as long
as a task only draws from a generator, it moves it for all, so that no two tasks draw the same numbers. Once a task has
set a generator (`seed`, `set_state`, `fork_rng`), it is the task's own.
"""

import contextlib
import ctypes
import functools
import os
import random
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

N_WORDS = 624  # of 32 bits, in the state of a Mersenne Twister
MOST_DRAWN = 1000 * N_WORDS  # words in a turn: a generator that is further ahead counts as set


class Setting:
    """A setting of the process.

    Parameters
    ----------
    read : callable
        Returns the value.
    write : callable
        Sets it.
    """

    def __init__(self, read: Callable[[], Any], write: Callable[[Any], None]) -> None:
        self.read, self.write = read, write

    def hand_on(self, first: Any, found: Any, left: Any, is_over: bool) -> Any:
        """Return what the process gets when a turn ends.

        The task's ``first`` turn, and this one, began with values that the process had, and this one ``left`` another.
        """
        return left if is_over and left != first else found


class Environment(Setting):
    """The environment variables, as `os.environ` keeps them: to decode them all at each turn costs more."""

    def __init__(self) -> None:
        super().__init__(lambda: dict(getattr(os.environ, "_data", os.environ)), self._write)

    def _write(self, value: dict[Any, Any]) -> None:
        current = self.read()
        for name in current.keys() - value.keys():
            os.environ.pop(os.fsdecode(name), None)
        for name, text in value.items():
            if current.get(name) != text:
                os.environ[os.fsdecode(name)] = os.fsdecode(text)

    def hand_on(self, first: Any, found: Any, left: Any, is_over: bool) -> Any:
        """Return the process's variables, with those that a task has changed when it ends."""
        if not is_over or left == first:
            return found
        kept = {name: text for name, text in found.items() if name in left or name not in first}
        return kept | {name: text for name, text in left.items() if first.get(name) != text}


class Filters(Setting):
    """The warning filters, as a context that restores them."""

    def __init__(self) -> None:
        super().__init__(self._read, lambda value: value.__exit__(None, None, None))

    def _read(self) -> Any:
        value = warnings.catch_warnings()
        value.__enter__()
        return value

    def hand_on(self, first: Any, found: Any, left: Any, is_over: bool) -> Any:
        """Return the process's filters."""
        return found


class Generator(Setting):
    """A global random generator, a Mersenne Twister. ``get_words`` returns the words and the position of a state."""

    def __init__(
        self, read: Callable[[], Any], write: Callable[[Any], None], get_words: Callable[[Any], tuple[bytes, int]]
    ) -> None:
        super().__init__(read, write)
        self.get_words = get_words

    def hand_on(self, first: Any, found: Any, left: Any, is_over: bool) -> Any:
        """Return the state that the task left if draws lead to it, or else the one that it found."""
        if found is None or left is None:
            return left
        (words, position), (words_found, position_found) = self.get_words(left), self.get_words(found)
        generator = np.random.MT19937(0)
        key = np.frombuffer(words_found, np.uint32)
        generator.state = {"bit_generator": "MT19937", "state": {"key": key, "pos": position_found}}
        address = generator.ctypes.state_address
        for n_drawn in range(0, MOST_DRAWN, N_WORDS):
            if ctypes.string_at(address, 4 * N_WORDS) == words:
                return left if n_drawn or position >= position_found else found
            generator.random_raw(N_WORDS, output=False)
        return found


def _read_directory() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it does not exist any more
        return None


def _write_directory(path: str | None) -> None:
    if path is not None:
        with contextlib.suppress(OSError):
            os.chdir(path)


def _get_words(state: Any) -> tuple[bytes, int]:
    return np.array(state[1][:-1], np.uint32).tobytes(), state[1][-1]


def _read_numpy() -> Any:
    """Return the state of `numpy.random`, or None if it is a bit generator of the user's own, which tasks share."""
    if not hasattr(np.random, "get_bit_generator"):  # NumPy 1.23
        return _get_numpy_state(b"")
    generator: Any = np.random.get_bit_generator()
    if type(generator) is not np.random.MT19937:
        return None
    return _get_numpy_state(ctypes.string_at(generator.ctypes.state_address, 4 * N_WORDS + 4))


@functools.lru_cache(1)  # `get_state` takes 100 times as long as the look at whether the memory has changed
def _get_numpy_state(memory: bytes) -> Any:
    name, words, *rest = np.random.get_state(legacy=True)  # noqa: NPY002
    return name, np.asarray(words).tobytes(), *rest


def _write_numpy(state: Any) -> None:
    if state is not None:
        name, words, *rest = state
        np.random.set_state((name, np.frombuffer(words, np.uint32), *rest))  # noqa: NPY002


def _get_torch_words(state: bytes) -> tuple[bytes, int]:
    n_left = int(np.frombuffer(state, np.int32, 1, offset=8)[0])
    return np.frombuffer(state, np.uint64, N_WORDS, offset=24).astype(np.uint32).tobytes(), N_WORDS + 1 - n_left


GENERATORS = (
    Generator(random.getstate, random.setstate, _get_words),
    Generator(_read_numpy, _write_numpy, lambda state: (state[1], state[2])),
    Generator(
        lambda: torch.get_rng_state().numpy().tobytes(),
        lambda state: torch.set_rng_state(torch.frombuffer(bytearray(state), dtype=torch.uint8)),
        _get_torch_words,
    ),
)
SETTINGS: Sequence[Setting] = (
    Setting(lambda: sys.stdout, lambda stream: setattr(sys, "stdout", stream)),
    Setting(lambda: sys.stderr, lambda stream: setattr(sys, "stderr", stream)),
    Setting(_read_directory, _write_directory),
    Environment(),
    *GENERATORS,
    Filters(),
)


class TaskSettings:
    """The settings of a task. ``begin`` and ``end`` enclose a turn; ``note`` is called when the task passes it."""

    def __init__(self) -> None:
        self.first: list[Any] | None = None
        self.own: dict[Setting, Any] = {}  # those that the task has changed
        self.left: list[Any] | None = None  # what the process has when the task passes its turn

    def begin(self) -> None:
        """Give the process the task's settings."""
        self.found = read_all()
        self.first = self.found if self.first is None else self.first
        self.left = None
        write_all([self.own.get(s, value) for s, value in zip(SETTINGS, self.found, strict=True)], self.found)

    def note(self) -> None:
        """Note the task's settings."""
        self.left = read_all()

    def end(self, is_over: bool) -> None:
        """Give the process back what it had, or what the task leaves if it is over."""
        if self.left is None:  # the task is stuck, and has not passed its turn
            self.note()
        values = []
        for setting, first, found, left in zip(SETTINGS, self.first or (), self.found, self.left or (), strict=True):
            is_own = setting in self.own and setting in GENERATORS
            is_same = left is found or left == found
            value = found if is_own else left if is_same else setting.hand_on(first, found, left, is_over)
            values.append(value)
            self.own.pop(setting, None)
            if is_own or left is not value:
                self.own[setting] = left
        write_all(values, self.left or ())


def read_all() -> list[Any]:
    """Return the values that the process has."""
    return [setting.read() for setting in SETTINGS]


def write_all(values: Sequence[Any], current: Sequence[Any]) -> None:
    """Set the values that differ from the current ones."""
    for setting, value, now in zip(SETTINGS, values, current, strict=True):
        if value is not now and value != now:
            setting.write(value)
