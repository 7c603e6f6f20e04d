"""Files of arrays and plain values that a crash does not damage. They hold no pickles, and reading runs no code."""

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any, NamedTuple

import numpy as np

from .compat import warn_user
from .tables import Array

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


class InUseError(ValueError):
    """Another fit has the file, in this process or in another one."""


class Archive:
    """A file of arrays and plain values, and the one that it replaced, which stays until the next is complete.

    Parameters
    ----------
    path : str
        The file.
    """

    def __init__(self, path: str) -> None:
        self.path, self.previous = path, f"{path}.previous"
        self.is_good = False  # whether the file is known to be complete, and may replace the previous one
        self.has_failed = False

    def read(self) -> Contents | None:
        """Return the contents of the file, or of the previous one if it is damaged. None: there is no good one.

        Warns
        -----
        UserWarning
            If the file is damaged.
        """
        damage = []
        for path in (self.path, self.previous):
            try:
                contents = read_file(path)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except PermissionError:
                raise
            except Exception as error:  # zipfile, zlib, NumPy and json raise many kinds for damaged files
                damage.append(f"{path!r} is damaged ({type(error).__name__}: {error})")
                continue
            self.is_good = path == self.path
            if damage:
                warn_user(f"The checkpoint {damage[0]}. The one before it, {path!r}, is used.")
            return contents
        if damage:
            warn_user(f"The checkpoint {', and '.join(damage)}. Training starts anew.")
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
            _write_file(temporary, contents)
            if os.path.exists(self.path):  # a damaged file must not replace the previous one, and may be another file
                os.replace(self.path, self.previous if self.is_good else f"{self.path}.damaged")
            os.replace(temporary, self.path)
            self.is_good = True
            _sync_folder(self.path)
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
    path = os.path.abspath(path) + (os.sep if path.endswith((os.sep, os.altsep or os.sep)) else "")
    is_folder = os.path.isdir(path) or path.endswith(os.sep)
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


def read_file(path: str) -> Contents:
    """Return the contents of a complete file.

    Raises
    ------
    Exception
        Of many kinds, if there is no file, or if it is damaged.
    """
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as pieces:  # NumPy leaves damaged files open
        arrays = {name: pieces[name] for name in pieces.files}
    checksum, text = arrays.pop("checksum"), arrays.pop("values")
    values = json.loads(str(text))
    if not np.array_equal(checksum, _calc_checksum(arrays, str(text))):
        raise ValueError("its checksum does not match")
    return Contents(arrays, values)


def _write_file(path: str, contents: Contents) -> None:
    arrays, text = contents.arrays, json.dumps(contents.values, default=lambda value: value.item())
    everything: dict[str, Any] = {**arrays, "values": np.array(text), "checksum": _calc_checksum(arrays, text)}
    with open(path, "wb") as file:
        np.savez(file, **everything)
        file.flush()
        os.fsync(file.fileno())


def _calc_checksum(arrays: dict[str, Array], text: str) -> Array:
    """Return the checksum of the contents of a file, (16,) of uint8."""
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype.str} {arrays[name].shape}".encode())
        digest.update(arrays[name].tobytes())
    return np.frombuffer(digest.digest(), np.uint8)


def _sync_folder(path: str) -> None:
    """Have the system write the names in the folder of a file to the disk, where it can."""
    if sys.platform == "win32":
        return
    descriptor = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some file systems cannot
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
        except FileNotFoundError:  # whoever had it has removed it meanwhile
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
