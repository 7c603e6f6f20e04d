"""Files that a crash does not damage, what is made of damaged ones, and files of the user, which are not touched."""

import errno
import os
import pickle
import re
import warnings
import zipfile
from contextlib import suppress
from unittest.mock import Mock

import numpy as np
import pytest

from scratchnn.checkpoints import archive
from scratchnn.checkpoints.archive import Archive, Contents, open_archive
from scratchnn.exceptions import InUseError


def make_contents(number):
    return Contents({"numbers": np.full(50, number), "empty": np.empty(0)}, {"number": number, "inf": np.inf})


@pytest.fixture
def path(tmp_path):
    """The path of a file that has been written twice. It holds 2."""
    file = Archive(str(tmp_path / "net.npz"))
    for number in (1, 2):
        file.write(make_contents(number))
    return tmp_path / "net.npz"


def read_number(path):
    contents = Archive(str(path)).read()
    if contents is None:
        return None
    assert contents.arrays["numbers"].tolist() == [contents.values["number"]] * 50
    return contents.values["number"]


def test_what_is_written_is_read(path, tmp_path):
    contents = Archive(str(path)).read()
    assert contents.values == {"number": 2, "inf": np.inf}
    assert (contents.arrays["numbers"].dtype, contents.arrays["empty"].shape) == (int, (0,))
    assert os.listdir(tmp_path) == ["net.npz"]
    assert read_number(tmp_path / "other.npz") is None


@pytest.mark.parametrize("length", [0, 100, -100, -1])
def test_a_truncated_file_is_a_warning_and_is_replaced(path, length):
    path.write_bytes(path.read_bytes()[:length])
    with pytest.warns(UserWarning, match=r"net.npz' is damaged \(.*: .*\). Training starts from the beginning"):
        assert read_number(path) is None
    Archive(str(path)).write(make_contents(3))
    assert read_number(path) == 3


def test_every_flipped_byte_is_noticed(path):
    """Of each byte one bit is flipped, at every 13th place: the file is refused, or its contents are the same."""
    content = path.read_bytes()
    found = []
    for position in range(0, len(content), 13):
        path.write_bytes(content[:position] + bytes([content[position] ^ 16]) + content[position + 1 :])
        with warnings.catch_warnings(), suppress(ValueError):
            warnings.simplefilter("ignore")
            found.append(read_number(path))
    assert set(found) == {None, 2}


class Malicious:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return exec, ("import builtins; builtins.attacked = True",)


@pytest.mark.parametrize("name", ["numbers", archive.TEXT])
def test_an_array_of_objects_is_damage_and_runs_no_code(path, name):
    pieces = {archive.TEXT: np.array("{}"), "numbers": np.ones(3)}
    np.savez(path, **(pieces | {name: np.array([Malicious()], dtype=object)}))
    with pytest.warns(UserWarning, match="Object arrays cannot be loaded"):
        assert read_number(path) is None
    assert not hasattr(__import__("builtins"), "attacked")


FOREIGN = {
    "text": lambda path: path.write_text("1,2,3"),
    "pickle": lambda path: path.write_bytes(pickle.dumps(Malicious())),
    "npz": lambda path: np.savez(path, X=np.ones(3), values=np.ones(3)),
    "zip": lambda path: zipfile.ZipFile(path, "w").close(),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_another_file_is_refused_and_stays(kind, tmp_path):
    path = tmp_path / "data.npz"
    FOREIGN[kind](path)
    content = path.read_bytes()
    with pytest.raises(
        ValueError, match=r"must be a checkpoint or a new file, got '.*data.npz', which is another file"
    ):
        Archive(str(path)).read()
    assert path.read_bytes() == content
    assert not hasattr(__import__("builtins"), "attacked")


def test_what_cannot_be_read_is_an_error_and_not_damage(path, tmp_path, monkeypatch):
    with pytest.raises(OSError, match=re.escape(str(tmp_path))):
        read_number(tmp_path)
    monkeypatch.setattr(np, "load", Mock(side_effect=MemoryError))
    with pytest.raises(MemoryError):
        read_number(path)


STEPS = {"open": archive, "savez": np, "fsync": os, "replace": os}


@pytest.mark.parametrize("name", STEPS)
def test_a_write_that_fails_at_any_step_leaves_the_complete_file(path, monkeypatch, name):
    file = Archive(str(path))
    with monkeypatch.context() as patch:
        patch.setattr(STEPS[name], name, Mock(side_effect=OSError(errno.ENOSPC, "No space left")), raising=False)
        with pytest.warns(UserWarning, match=r"could not be written .*No space left.* Free disk space"):
            file.write(make_contents(3))
        file.write(make_contents(4))  # a second warning would be an error
        assert os.listdir(path.parent) == ["net.npz"]
        patch.setattr(STEPS[name], name, Mock(side_effect=KeyboardInterrupt))  # as if the process was killed
        with pytest.raises(KeyboardInterrupt):
            file.write(make_contents(5))
    assert read_number(path) == 2
    file.write(make_contents(6))
    assert read_number(path) == 6


def test_a_file_is_for_one_at_a_time(tmp_path):
    path = os.path.realpath(tmp_path / "net.npz")
    with open_archive(path, "name") as first:
        assert first.path == path
        message = "path of Checkpoint must be a file for one fit at a time, got '.*net.npz', .*Pass a folder"
        with pytest.raises(InUseError, match=message), open_archive(path, "name"):
            pass
    with open_archive(path, "name"):
        assert os.listdir(tmp_path) == ["net.npz.lock"]
    assert os.name == "nt" or os.listdir(tmp_path) == []


@pytest.mark.parametrize("exists", [False, True])
def test_in_a_folder_each_has_its_own_file(tmp_path, exists):
    path = str(tmp_path) if exists else f"{tmp_path}/new/"
    with open_archive(path, "a") as first, open_archive(path, "a") as second, open_archive(path, "b") as third:
        names = [os.path.relpath(each.path, os.path.realpath(path)) for each in (first, second, third)]
    assert names == ["a.npz", "a-2.npz", "b.npz"]


def test_home_folders_and_links_are_followed(tmp_path, monkeypatch):
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    (tmp_path / "link.npz").symlink_to(tmp_path / "net.npz")
    with open_archive("~/run/", "name") as first, open_archive("~/link.npz", "name") as second:
        first.write(make_contents(1))
        second.write(make_contents(2))
    assert [read_number(tmp_path / name) for name in ("run/name.npz", "net.npz")] == [1, 2]
    assert (tmp_path / "link.npz").is_symlink()
