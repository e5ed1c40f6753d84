# SPDX-License-Identifier: Apache-2.0
"""Files that are written as a whole, or not at all, and folders that don't stay empty."""

from __future__ import annotations

import os
import stat

import pytest

from mapscratch.replacing import filling, replacing


def mode_of(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def any_new_file(folder):
    path = folder / "any"
    path.touch()
    return path


@pytest.mark.parametrize("error", [OSError("full"), KeyboardInterrupt()])
@pytest.mark.parametrize("mode", [None, 0o600])
def test_a_file_that_was_not_written_leaves_nothing(error, mode, tmp_path):
    def write():
        with replacing(tmp_path / "new", mode) as file:
            file.write(b"half")
            raise error

    with pytest.raises(type(error)):
        write()
    assert list(tmp_path.iterdir()) == []


def test_permissions_are_those_given_or_there_or_of_any_new_file(tmp_path):
    old, new, given = tmp_path / "old", tmp_path / "new", tmp_path / "given"
    old.write_bytes(b"before")
    old.chmod(0o640)
    for path, mode in ((old, None), (new, None), (given, 0o751)):
        with replacing(path, mode) as file:
            file.write(b"after")
            file.seek(0)
            assert file.read() == b"after"
        assert path.read_bytes() == b"after"
    assert (mode_of(old), mode_of(given)) == (0o640, 0o751)
    assert mode_of(new) == mode_of(any_new_file(tmp_path))


def test_what_is_not_for_others_is_not_while_it_is_written(tmp_path):
    with replacing(tmp_path / "given", 0o600) as file:
        assert os.fstat(file.fileno()).st_mode & 0o777 == 0o600


def test_where_no_file_can_be_made_the_error_names_the_one_that_was_asked_for(tmp_path):
    target = tmp_path / "none" / "file"
    with pytest.raises(FileNotFoundError) as caught, replacing(target, 0o600):
        pass
    assert caught.value.filename == str(target)


def test_a_folder_stays_if_there_is_something_in_it(tmp_path):
    folder = tmp_path / "a" / "b"
    with filling(folder):
        (folder.parent / "file").touch()
    assert set(tmp_path.rglob("*")) == {tmp_path / "a", tmp_path / "a" / "file"}
    with filling(folder):
        (folder / "file").touch()
    assert (folder / "file").exists()
