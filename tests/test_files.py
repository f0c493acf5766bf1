import fcntl
import os
import pickle
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from kddcup.io.atomic import PARTS, atomic_folder, atomic_write, remove_leftovers
from kddcup.io.errors import UserError
from kddcup.io.files import format_csv, read_json, read_pickle, write_json, write_pickle, write_text
from kddcup.io.tensors import read_tensors, write_tensors

WRITER = "import sys; from kddcup.io.files import write_text; write_text(sys.argv[1], 'second')"


class Runs:
    """Runs a command when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_an_atomic_write_makes_folders_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "a" / "b" / "file"
    with atomic_write(path) as part:
        part.write_text("all")
        assert not path.exists()
    assert path.read_text() == "all"
    assert list(path.parent.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail():
        with atomic_write(path) as part:
            part.write_text("ha")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_first_write_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(AttributeError), atomic_write(tmp_path / "file") as part:
        part.write_text(None.text)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", [write_pickle, write_tensors, write_json])
def test_a_value_that_cannot_be_written_leaves_the_old_file(tmp_path, write):
    path = tmp_path / "file"
    write(path, {"a": 1})
    old = path.read_bytes()
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        write(path, {"a": (i for i in range(3))})
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_text_has_lf_line_ends_and_is_utf8(tmp_path):
    write_text(tmp_path / "t", "红\nb\n")
    assert (tmp_path / "t").read_bytes() == "红\nb\n".encode()


def test_rows_become_csv_with_lf_line_ends():
    assert format_csv([["a", 1, ""], ["b,c", 2, 3]]) == 'a,1,\n"b,c",2,3\n'


def test_a_pickle_of_plain_data_and_arrays_comes_back(tmp_path):
    value = {
        "array": np.arange(6, dtype=np.int32).reshape(2, 3),
        "bytes": np.frombuffer(b"abc", np.uint8),
        "float": np.array([0.5], np.float16),
        "nested": {"list": [1, 2.5, "x", None, True]},
    }
    write_pickle(tmp_path / "p", value)
    found = read_pickle(tmp_path / "p", "python preprocess.py")
    for key in ("array", "bytes", "float"):
        np.testing.assert_array_equal(found[key], value[key])
        assert found[key].dtype == value[key].dtype
    assert found["nested"] == value["nested"]


def test_a_pickle_that_would_run_a_command_is_refused_and_does_not_run_it(tmp_path):
    ran = tmp_path / "ran"
    (tmp_path / "p").write_bytes(pickle.dumps({"a": Runs(ran)}))
    with pytest.raises(UserError, match=r"system.*python preprocess\.py"):
        read_pickle(tmp_path / "p", "python preprocess.py")
    assert not ran.exists()


@pytest.mark.parametrize(
    "value", [OrderedDict(a=1), Path("x"), torch.zeros(2), print, np.float64(2), np.random.default_rng(0)]
)
def test_a_pickle_of_anything_but_data_is_refused(tmp_path, value):
    (tmp_path / "p").write_bytes(pickle.dumps({"a": value}))
    with pytest.raises(UserError, match="which is not data"):
        read_pickle(tmp_path / "p", "python preprocess.py")


def test_an_array_of_objects_cannot_carry_code(tmp_path):
    ran = tmp_path / "ran"
    (tmp_path / "p").write_bytes(pickle.dumps({"a": np.array([Runs(ran), 1], object)}))
    with pytest.raises(UserError):
        read_pickle(tmp_path / "p", "python preprocess.py")
    assert not ran.exists()


def test_an_absent_pickle_names_the_command(tmp_path):
    with pytest.raises(UserError, match=r"p does not exist: make it with 'python preprocess\.py'"):
        read_pickle(tmp_path / "p", "python preprocess.py")


def test_a_torn_pickle_is_a_users_error_wherever_it_is_torn(tmp_path):
    write_pickle(tmp_path / "p", {"a": np.arange(9), "b": ["x", {"c": 1.5}]})
    content = (tmp_path / "p").read_bytes()
    for end in range(len(content)):
        (tmp_path / "p").write_bytes(content[:end])
        with pytest.raises(UserError, match="make it anew"):
            read_pickle(tmp_path / "p", "python preprocess.py")


class BadCall:
    """Calls an admitted function in a way that it cannot be called."""

    def __reduce__(self):
        return np.empty(0).__reduce__()[0], (1,)


@pytest.mark.parametrize(
    "content",
    [
        b"hello",
        b"PK\x03\x04",
        b"\x80\x04.",
        b'{"a": 1}',
        b"product_id\tquery\n",
        pickle.dumps({"a": BadCall()}),
    ],
    ids=["word", "zip", "empty", "json", "table", "bad call"],
)
def test_a_file_that_is_no_sound_pickle_is_a_users_error(tmp_path, content):
    (tmp_path / "p").write_bytes(content)
    with pytest.raises(UserError, match=r"p cannot be read .*make it anew with 'python preprocess\.py'"):
        read_pickle(tmp_path / "p", "python preprocess.py")


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_come_back_from_files_of_either_format(tmp_path, zipped):
    value = {"item": {"weight": torch.arange(6.0).reshape(2, 3)}, "epoch": 3, "names": ["a"]}
    torch.save(value, tmp_path / "t", _use_new_zipfile_serialization=zipped)
    found = read_tensors(tmp_path / "t", "train it")
    assert torch.equal(found["item"]["weight"], value["item"]["weight"])
    assert (found["epoch"], found["names"]) == (3, ["a"])


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_that_would_run_a_command_is_refused_and_does_not_run_it(tmp_path, zipped):
    ran = tmp_path / "ran"
    torch.save({"a": Runs(ran)}, tmp_path / "t", _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        UserError, match=r"t is not a checkpoint that can be read safely .*: train it"
    ) as caught:
        read_tensors(tmp_path / "t", "train it")
    assert "\n" not in str(caught.value)
    assert not ran.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_torn_checkpoint_is_a_users_error_wherever_it_is_torn(tmp_path, zipped):
    torch.save({"a": torch.rand(5), "b": [1, 2.5]}, tmp_path / "t", _use_new_zipfile_serialization=zipped)
    content = (tmp_path / "t").read_bytes()
    for end in range(len(content)):
        (tmp_path / "t").write_bytes(content[:end])
        with pytest.raises(UserError, match="t is not a checkpoint.*: train it") as caught:
            read_tensors(tmp_path / "t", "train it")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"hello", b"PK\x03\x04", b"\x00" * 100])
def test_a_file_that_is_no_checkpoint_is_a_users_error(tmp_path, content):
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(UserError, match="t is not a checkpoint.*: train it"):
        read_tensors(tmp_path / "t", "train it")


def test_an_absent_checkpoint_says_where_it_comes_from(tmp_path):
    with pytest.raises(UserError, match="t does not exist: train it"):
        read_tensors(tmp_path / "t", "train it")


def test_json_comes_back(tmp_path):
    write_json(tmp_path / "j", {"1": [[2, 0.1]]})
    assert read_json(tmp_path / "j", "x") == {"1": [[2, 0.1]]}


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": 1', b"\xff\xfe\xfa", b"[" * 100_000])
def test_what_is_not_json_is_a_users_error(tmp_path, content):
    (tmp_path / "j").write_bytes(content)
    with pytest.raises(UserError, match="j is not JSON .*: it comes with the table"):
        read_json(tmp_path / "j", "it comes with the table")


def test_absent_json_says_where_it_comes_from(tmp_path):
    with pytest.raises(UserError, match="j does not exist: it comes with the table"):
        read_json(tmp_path / "j", "it comes with the table")


def test_a_pickle_with_an_array_of_another_type_is_refused(tmp_path):
    write_pickle(tmp_path / "p", {"column": np.arange(4)})
    content = (tmp_path / "p").read_bytes()
    assert content.count(b"i8") == 1
    (tmp_path / "p").write_bytes(content.replace(b"i8", b"M8"))
    with pytest.raises(UserError, match="an array of the type .*M8.*, which is not a number"):
        read_pickle(tmp_path / "p", "python preprocess.py")


def test_two_runs_that_write_one_file_at_once_leave_one_of_both_complete(tmp_path):
    path = tmp_path / "file.txt"
    command = [sys.executable, "-c", WRITER, str(path)]
    with atomic_write(path) as part:
        part.write_bytes(b"first, half of it")
        subprocess.run(command, check=True)
        assert path.read_bytes() == b"second"
        part.write_bytes(b"first")
    assert path.read_bytes() == b"first"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]


def test_two_writers_in_one_process_leave_one_file_complete(tmp_path):
    path = tmp_path / "file.txt"
    with atomic_write(path) as part:
        part.write_bytes(b"first, half of it")
        with atomic_write(path) as other:
            other.write_bytes(b"second")
        assert path.read_bytes() == b"second"
        part.write_bytes(b"first")
    assert path.read_bytes() == b"first"


SLOW_WRITER = """
import sys
from kddcup.io.atomic import PARTS, atomic_folder, atomic_write, remove_leftovers
with atomic_write(sys.argv[1]) as part:
    part.write_bytes(b"second")
    print("half", flush=True)
    sys.stdin.read()
"""


def start_writer(path):
    """A process that has begun to write a file, and goes on when its standard input is closed."""
    writer = subprocess.Popen(
        [sys.executable, "-c", SLOW_WRITER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert writer.stdout.readline() == b"half\n"
    return writer


def test_the_next_write_removes_what_a_killed_one_has_left(tmp_path):
    with start_writer(tmp_path / "file.txt") as writer:
        writer.kill()
    assert len(list(tmp_path.glob(PARTS))) == 1
    write_text(tmp_path / "file.txt", "first")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]


def test_a_part_that_is_taken_for_a_leftover_before_it_is_locked_is_created_again(tmp_path, monkeypatch):
    lock = fcntl.flock
    removed = []

    def lock_late(descriptor, how):
        if not removed:
            removed.extend(tmp_path.glob(PARTS))
            for part in removed:
                part.unlink()
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", lock_late)
    write_text(tmp_path / "file.txt", "first")
    assert len(removed) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]
    assert (tmp_path / "file.txt").read_text() == "first"


def test_the_next_write_leaves_what_a_running_one_is_writing(tmp_path):
    with start_writer(tmp_path / "file.txt") as writer:
        write_text(tmp_path / "file.txt", "first")
        remove_leftovers(tmp_path)
        writer.stdin.close()
    assert writer.returncode == 0
    assert (tmp_path / "file.txt").read_bytes() == b"second"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir])
def test_what_somebody_holds_is_no_leftover_whatever_process_its_name_says(tmp_path, make):
    part = tmp_path / ".file.txt.999999999-0a1b2c3d.part"
    make(part)
    holder = os.open(part, os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    remove_leftovers(tmp_path)
    assert part.exists()
    os.close(holder)
    remove_leftovers(tmp_path)
    assert not part.exists()


def test_a_folder_is_there_with_all_that_is_in_it_or_not_at_all(tmp_path):
    with atomic_folder(tmp_path / "folder") as part:
        (part / "a").mkdir()
        (part / "a" / "b").write_text("b")
        assert not (tmp_path / "folder").exists()
    assert (tmp_path / "folder" / "a" / "b").read_text() == "b"
    with pytest.raises(AttributeError), atomic_folder(tmp_path / "other") as part:
        (part / "b").write_text(None.text)
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]
