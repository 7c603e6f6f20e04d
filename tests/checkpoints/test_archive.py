"""Files that a crash does not damage, and what is made of those that are damaged all the same."""

import errno
import os
import pickle
import re
import warnings

import numpy as np
import pytest

from scratchnn.checkpoints import archive
from scratchnn.checkpoints.archive import Archive, Contents, open_archive, read_file
from scratchnn.exceptions import InUseError


def make_contents(number):
    return Contents({"numbers": np.full(50, number), "empty": np.empty(0)}, {"number": number, "inf": np.inf})


@pytest.fixture
def path(tmp_path):
    """The path of a file that has been written three times: it holds 3, and the previous one 2."""
    file = Archive(str(tmp_path / "net.npz"))
    for number in (1, 2, 3):
        file.write(make_contents(number))
    return file.path


def read_number(path):
    contents = Archive(path).read()
    if contents is None:
        return None
    assert contents.arrays["numbers"].tolist() == [contents.values["number"]] * 50
    return contents.values["number"]


def test_what_is_written_is_read(path):
    contents = Archive(path).read()
    assert contents.values == {"number": 3, "inf": np.inf}
    assert contents.arrays["numbers"].dtype == int
    assert contents.arrays["empty"].shape == (0,)
    assert read_file(f"{path}.previous").values["number"] == 2
    assert sorted(os.listdir(os.path.dirname(path))) == ["net.npz", "net.npz.previous"]


def test_there_may_be_no_file(tmp_path):
    assert read_number(str(tmp_path / "net.npz")) is None


def cut(content):
    return content[: len(content) // 2]


def flip(content):
    position = content.index(np.full(50, 3).tobytes()) + 8
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


DAMAGES = {"empty": lambda content: b"", "cut": cut, "a byte": lambda content: content[:-1], "flipped": flip}
DAMAGES |= {"text": lambda content: b"no file of arrays", "pickle": lambda content: pickle.dumps(content)}


def damage(path, how):
    with open(path, "rb") as file:
        content = file.read()
    with open(path, "wb") as file:
        file.write(DAMAGES[how](content))


@pytest.mark.parametrize("how", DAMAGES)
def test_the_previous_file_takes_the_place_of_a_damaged_one(path, how):
    damage(path, how)
    with pytest.warns(UserWarning, match=f"{re.escape(repr(path))} is damaged .*previous', is used"):
        assert read_number(path) == 2


def test_training_starts_anew_without_a_good_file(path):
    damage(path, "cut")
    damage(f"{path}.previous", "empty")
    with pytest.warns(UserWarning, match=r"is damaged .*, and .* is damaged .*Training starts anew"):
        assert read_number(path) is None


def test_every_flipped_byte_is_noticed(path):
    """Of each byte one bit is flipped, at every 13th place: the file is refused, or its contents are the same."""
    with open(path, "rb") as file:
        content = file.read()
    for position in range(0, len(content), 13):
        with open(path, "wb") as file:
            file.write(content[:position] + bytes([content[position] ^ 16]) + content[position + 1 :])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert read_number(path) in (2, 3)


def test_a_checksum_finds_what_the_format_does_not(path):
    contents = read_file(path)
    with open(path, "wb") as file:
        np.savez(file, **contents.arrays, values=np.array('{"number": 4}'), checksum=np.zeros(16, np.uint8))
    with pytest.warns(UserWarning, match="its checksum does not match"):
        assert read_number(path) == 2


class Malicious:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return exec, ("import builtins; builtins.attacked = True",)


@pytest.mark.parametrize("name", ["numbers", "values", "checksum"])
def test_an_array_of_objects_is_damage_and_runs_no_code(path, name):
    contents = read_file(path)
    pieces = {**contents.arrays, "values": np.array("{}"), "checksum": np.zeros(16, np.uint8)}
    with open(path, "wb") as file:
        np.savez(file, **(pieces | {name: np.array([Malicious()], dtype=object)}))
    with pytest.warns(UserWarning, match="Object arrays cannot be loaded"):
        assert read_number(path) == 2
    assert not hasattr(__import__("builtins"), "attacked")


class Killed(BaseException):
    pass


@pytest.mark.parametrize("step", ["savez", "fsync", "first replace", "second replace", "fsync of the folder"])
def test_a_process_killed_at_any_step_leaves_a_complete_file(path, monkeypatch, step):
    calls = []

    def watch(module, name, steps):
        original = getattr(module, name)

        def call(*args, **kwargs):
            calls.append(name)
            if steps[calls.count(name) - 1] == step:
                if name == "savez":
                    args[0].write(b"half a file")
                raise Killed
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, call)

    watch(archive.np, "savez", ["savez"])
    watch(archive.os, "fsync", ["fsync", "fsync of the folder"])
    watch(archive.os, "replace", ["first replace", "second replace"])
    file = Archive(path)
    file.read()
    with pytest.raises(Killed):
        file.write(make_contents(4))
    monkeypatch.undo()
    expected = {"second replace": 3, "fsync of the folder": 4}.get(step, 3)
    assert read_number(path) == expected
    again = Archive(path)
    again.read()
    again.write(make_contents(5))
    assert read_number(path) == 5
    assert read_file(f"{path}.previous").values["number"] in (3, 4)


@pytest.mark.parametrize("name", ["open", "savez", "replace", "fsync"])
def test_a_full_disk_is_a_warning_once_and_the_file_stays(path, monkeypatch, name):
    def fail(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    file = Archive(path)
    file.read()
    module = {"savez": archive.np, "open": archive}.get(name, archive.os)
    monkeypatch.setattr(module, name, fail, raising=False)
    with pytest.warns(UserWarning, match=r"could not be written .*No space left.* Make room"):
        file.write(make_contents(4))
    file.write(make_contents(5))  # a second warning would be an error
    monkeypatch.undo()
    assert read_number(path) == 3
    file.write(make_contents(6))  # there is room again
    assert read_number(path) == 6
    assert sorted(os.listdir(os.path.dirname(path))) == ["net.npz", "net.npz.previous"]


def test_a_damaged_file_does_not_replace_the_previous_one(path):
    damage(path, "cut")
    file = Archive(path)
    with pytest.warns(UserWarning, match="is damaged"):
        file.read()
    file.write(make_contents(4))
    assert read_number(path) == 4
    assert read_file(f"{path}.previous").values["number"] == 2


def test_a_file_that_is_no_checkpoint_is_not_lost(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("1,2,3")
    file = Archive(str(path))
    with pytest.warns(UserWarning, match="table.csv' is damaged .* Training starts anew"):
        file.read()
    file.write(make_contents(1))
    assert (tmp_path / "table.csv.damaged").read_text() == "1,2,3"
    assert read_number(str(path)) == 1


def test_a_file_is_for_one_at_a_time(tmp_path):
    path = str(tmp_path / "net.npz")
    with open_archive(path, "name") as first:
        assert first.path == path
        message = f"path of Checkpoint must be a file for one fit at a time, got '{path}', .*Pass a folder"
        with pytest.raises(InUseError, match=message), open_archive(path, "name"):
            pass
    with open_archive(path, "name") as second:
        assert second.path == path
    assert os.listdir(tmp_path) == []  # no locks are left


@pytest.mark.parametrize("exists", [False, True])
def test_in_a_folder_each_has_its_own_file(tmp_path, exists):
    path = str(tmp_path) if exists else f"{tmp_path}/new/"
    with open_archive(path, "a") as first, open_archive(path, "a") as second, open_archive(path, "b") as third:
        names = [os.path.relpath(each.path, path) for each in (first, second, third)]
    assert names == ["a.npz", "a-2.npz", "b.npz"]


def test_a_folder_that_cannot_be_made_is_a_warning(tmp_path):
    (tmp_path / "file").touch()
    with open_archive(f"{tmp_path}/file/net.npz", "name") as file:
        assert file.read() is None
        with pytest.warns(UserWarning, match="could not be written"):
            file.write(make_contents(1))
