"""Files of arrays and plain values that a crash does not damage. They hold no pickles, and reading runs no code."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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


class Contents(NamedTuple):
    """What a file holds: arrays by name, and plain values by name, as JSON has them."""

    arrays: dict[str, Array]
    values: dict[str, Any]


class Archive:
    """A file of arrays and plain values at a path."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.has_failed = False

    def read(self) -> Contents | None:
        """Return the contents of the file. None: there is no file, or it is damaged.

        Raises
        ------
        ValueError
            If the file is not an archive, and must not be replaced by one.

        Warns
        -----
        UserWarning
            If the file is damaged.
        """
        try:
            with open(self.path, "rb") as file:
                start = file.read(2)
                file.seek(0)
                with np.load(file, allow_pickle=False) as pieces:  # zip has a checksum for each piece
                    arrays = {name: pieces[name] for name in pieces.files}
            return Contents(arrays, json.loads(str(arrays.pop("values"))))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except PermissionError:
            raise
        except Exception as error:  # zipfile, zlib, NumPy and json raise many kinds for damaged files
            if start not in (b"", b"PK"):
                raise ValueError(
                    f"path of Checkpoint must be a checkpoint or a new file, got {self.path!r}, which is another file. "
                    "Pass another path."
                ) from error
            warn_user(
                f"The checkpoint {self.path!r} is damaged ({type(error).__name__}: {error}). Training starts from the "
                "beginning."
            )
            return None

    def write(self, contents: Contents) -> None:
        """Replace the file. If that fails, the file stays as it is.

        Warns
        -----
        UserWarning
            The first time that the file cannot be written.
        """
        temporary = f"{self.path}.tmp"
        try:
            with open(temporary, "wb") as file:
                text = json.dumps(contents.values, default=lambda value: value.item())
                np.savez(file, **contents.arrays, values=np.array(text))  # type: ignore[arg-type]
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.remove(temporary)
            if not self.has_failed:
                warn_user(
                    f"The checkpoint {self.path!r} could not be written ({error}). Training continues, and the state "
                    "written before stays. Make room, or give Checkpoint a path in a folder that can be written to."
                )
            self.has_failed = True


@contextmanager
def open_archive(path: str, name: str) -> Iterator[Archive]:
    """Open a file that no other fit has open. If ``path`` is a folder, the file is one in it called ``name``.

    Raises
    ------
    InUseError
        If another fit has the file open. In a folder, a number is added to the name instead.
    """
    is_folder = path.endswith((os.sep, os.altsep or os.sep))
    path = os.path.abspath(os.path.expanduser(path))
    is_folder = is_folder or os.path.isdir(path)
    with contextlib.suppress(OSError):  # what cannot be made cannot be written to, which `Archive.write` warns of
        os.makedirs(path if is_folder else os.path.dirname(path), exist_ok=True)
    for number in count(1):
        file = os.path.join(path, f"{name}{f'-{number}' if number > 1 else ''}.npz") if is_folder else path
        try:
            descriptor = _acquire(f"{file}.lock")
        except InUseError:
            if not is_folder:
                raise
            continue
        break
    try:
        yield Archive(file)
    finally:
        _release(f"{file}.lock", descriptor)


def _acquire(path: str) -> int | None:
    """Return the descriptor of a locked file. The system unlocks it when the process ends, however it ends.

    None stands for a folder that cannot be written to, or a system that cannot lock.
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
        except FileNotFoundError:  # the fit that had it has removed it meanwhile
            pass
        except (BlockingIOError, PermissionError):
            os.close(descriptor)
            file = path.removesuffix(".lock")
            raise InUseError(
                f"path of Checkpoint must be a file for one fit at a time, got {file!r}, which another fit is using. "
                f"Pass a folder, such as {os.path.dirname(file) + os.sep!r}, where each fit has its own file."
            ) from None
        except OSError:
            os.close(descriptor)
            return None
        os.close(descriptor)


def _release(path: str, descriptor: int | None) -> None:
    if descriptor is not None:
        with contextlib.suppress(OSError):  # Windows removes no open files
            os.remove(path)
        os.close(descriptor)
