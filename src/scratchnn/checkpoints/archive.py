"""Files of arrays and plain values that a crash does not damage. They hold no pickles, and reading runs no code."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from itertools import count
from typing import Any, NamedTuple

import numpy as np

from .._compat import warn_user
from ..exceptions import InUseError
from ..tables.arrays import Array

if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


TEXT = "scratchnn"  # name of the plain values. They come first, which identifies even a damaged file


class Contents(NamedTuple):
    """The contents of a file: arrays by name, and plain values, of the types of JSON, by name."""

    arrays: dict[str, Array]
    values: dict[str, Any]


class Archive:
    """A file of arrays and plain values at a path."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.has_failed = False

    def read(self) -> Contents | None:
        """Return the contents of the file; None if there is no file, or with a UserWarning if it is damaged.

        Raises ValueError for another file of the user, which must not be replaced.
        """
        try:
            with open(self.path, "rb") as file:
                content = file.read()
        except (FileNotFoundError, NotADirectoryError):
            return None
        if content and not content.startswith(f"{TEXT}.npy".encode(), 30):  # after the header of a zip's first member
            raise ValueError(
                f"path of Checkpoint must be a checkpoint or a new file, got {self.path!r}, which is another file."
            )
        try:
            with np.load(BytesIO(content), allow_pickle=False) as pieces:  # zip has a checksum for each piece
                arrays = {name: pieces[name] for name in pieces.files}
            return Contents(arrays, json.loads(str(arrays.pop(TEXT))))
        except MemoryError:
            raise
        except Exception as error:  # zipfile, zlib, NumPy and json raise many kinds for damaged files
            warn_user(
                f"The checkpoint {self.path!r} is damaged ({type(error).__name__}: {error}). Training starts from the "
                "beginning."
            )
            return None

    def write(self, contents: Contents) -> None:
        """Replace the file. If that fails, keep it, with a UserWarning for the first time."""
        temporary = f"{self.path}.tmp"
        text = np.array(json.dumps(contents.values, default=lambda value: value.item()))
        try:
            with open(temporary, "wb") as file:
                np.savez(file, **{TEXT: text, **contents.arrays})  # type: ignore[arg-type]
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path)
        except OSError as error:
            with suppress(OSError):
                os.remove(temporary)
            if not self.has_failed:
                warn_user(
                    f"The checkpoint {self.path!r} could not be written ({error}). Training continues, and the "
                    "earlier state is kept. Free disk space, or give Checkpoint a path in a writable folder."
                )
            self.has_failed = True


@contextmanager
def open_archive(path: str, name: str) -> Iterator[Archive]:
    """Open a file that no other fit has open, or else raise InUseError.

    If ``path`` is a folder, the file in it is called ``name``, followed by a number if other fits have it open.
    """
    path = os.path.expanduser(path)
    is_folder = path.endswith((os.sep, os.altsep or os.sep)) or os.path.isdir(path)
    path = os.path.realpath(os.path.join(path, name) if is_folder else path)
    with suppress(OSError):  # `Archive.write` warns of a folder that cannot be made
        os.makedirs(os.path.dirname(path), exist_ok=True)
    for number in count(1):
        file = f"{path}{f'-{number}' if number > 1 else ''}.npz" if is_folder else path
        try:
            descriptor = _acquire(f"{file}.lock")
            break
        except (BlockingIOError, PermissionError):
            if not is_folder:
                raise InUseError(
                    f"path of Checkpoint must be a file for one fit at a time, got {path!r}, which another fit uses. "
                    f"Pass a folder, such as {os.path.dirname(path) + os.sep!r}, where each fit has its own file."
                ) from None
    try:
        yield Archive(file)
    finally:
        if descriptor is not None:
            with suppress(OSError):  # Windows removes no open files
                os.remove(f"{file}.lock")
            os.close(descriptor)


def _acquire(path: str) -> int | None:
    """Return the descriptor of a locked file, which the system unlocks when the process ends, however it ends.

    Return None if the folder cannot be written to, or locks are not supported. Raise the error of a lock in use.
    """
    while True:
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
        except OSError:
            return None
        try:
            _lock(descriptor)
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except FileNotFoundError:  # the fit that held the lock has removed it
            pass
        except OSError as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError | PermissionError):  # the latter on Windows
                raise
            return None
        os.close(descriptor)
