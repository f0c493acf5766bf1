"""Every write fails in turn: what is left is the old file or the new one, and the next run goes on."""

import errno
import io
import os
import resource
import shutil
import signal
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

from kddcup.data.store import write_array
from kddcup.io.errors import UserError
from kddcup.io.files import write_arrays, write_json, write_pickle, write_text
from kddcup.io.tensors import write_tensors
from kddcup.release.archive import extract, pack
from tests.conftest import ROOT, assert_one_line_error

OLD, NEW = 1, 2


def some(version: int) -> np.ndarray:
    return np.arange(3000) * version


def write_archive(path, version):
    source = path.parent.parent / str(version)
    if not source.exists():
        source.write_bytes(some(version).tobytes())
    pack(path, {"info/a": source})


WRITERS = {
    "text": lambda path, version: write_text(path, str(some(version).tolist())),
    "JSON": lambda path, version: write_json(path, some(version).tolist()),
    "pickle": lambda path, version: write_pickle(path, {"a": some(version), "b": ["x"]}),
    "tensors": lambda path, version: write_tensors(path, {"a": torch.from_numpy(some(version))}),
    "array": lambda path, version: write_array(path, some(version)),
    "arrays": lambda path, version: write_arrays(path, {"a": some(version)}),
    "archive": write_archive,
}


class Faults:
    """Has one of the steps to the disk go wrong: each write, fsync and replace is one.

    Args:
        at: which, from 0.
        fault: called in its place, with what it would have called.
    """

    def __init__(self, monkeypatch, folder, at, fault):
        self.at, self.fault, self.steps, self.replaced = at, fault, 0, False
        faults, plain_open = self, open

        class File(io.FileIO):
            def write(self, data):
                return faults.step(super().write, data)

        def faulty_open(path, mode="r", *others, **options):
            if "w" in mode and os.path.dirname(path) == str(folder):
                return io.BufferedWriter(File(path, mode))
            return plain_open(path, mode, *others, **options)

        def faulty_replace(*args):
            faults.step(replace, *args)
            faults.replaced = True

        fsync, replace = os.fsync, os.replace
        monkeypatch.setattr("builtins.open", faulty_open)
        monkeypatch.setattr(io, "open", faulty_open)
        monkeypatch.setattr(os, "fsync", lambda descriptor: faults.step(fsync, descriptor))
        monkeypatch.setattr(os, "replace", faulty_replace)

    def step(self, real, *args):
        self.steps += 1
        return self.fault(real, *args) if self.steps == self.at + 1 else real(*args)


def no_space(real, *args):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def over_quota(real, *args):
    raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))


def short(real, *args):
    if real.__name__ == "write":
        return real(args[0][: max(1, len(args[0]) // 2)])
    return real(*args)


def killed(real, *args):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def path(tmp_path):
    """In a folder of its own."""
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder" / "file"


def versions(write, path):
    """The bytes of the old and of the new version."""
    found = []
    for version in (OLD, NEW):
        write(path, version)
        found.append(path.read_bytes())
        path.unlink()
    return found


def status_of_child(work, at) -> int:
    """How a forked process ended that did some work: 0, or the signal that killed it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads, from Python 3.12
        child = os.fork()
    if child == 0:
        try:
            work(at)
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("fault", [no_space, over_quota])
@pytest.mark.parametrize("kind", WRITERS)
def test_whichever_step_finds_the_disk_full_the_file_is_whole_and_one_line_says_so(path, kind, fault):
    write = WRITERS[kind]
    old, new = versions(write, path)
    for at in range(1000):
        write(path, OLD)
        message = None
        with pytest.MonkeyPatch.context() as monkeypatch:
            faults = Faults(monkeypatch, path.parent, at, fault)
            try:
                write(path, NEW)
            except UserError as error:
                message = str(error)
        assert path.read_bytes() == (new if faults.replaced else old)
        assert list(path.parent.iterdir()) == [path]
        if message is None:
            break
        assert message.startswith(f"{path} cannot be written (")
        assert "bytes free; make room there" in message
        assert "\n" not in message
    assert faults.steps == at >= 4  # a write, of the file and of the folder a fsync, a replace


@pytest.mark.parametrize("kind", WRITERS)
def test_whichever_step_a_run_is_killed_in_the_file_is_whole_and_the_next_run_writes_it(path, kind):
    write = WRITERS[kind]
    old, new = versions(write, path)

    def work(at):
        with pytest.MonkeyPatch.context() as monkeypatch:
            Faults(monkeypatch, path.parent, at, killed)
            write(path, NEW)

    for at in range(1000):
        write(path, OLD)
        status = status_of_child(work, at)
        assert path.read_bytes() in (old, new)
        write(path, NEW)
        assert path.read_bytes() == new
        assert list(path.parent.iterdir()) == [path]
        if status == 0:
            break
        assert status == -signal.SIGKILL
    assert at >= 4


@pytest.mark.parametrize("kind", WRITERS)
def test_a_write_that_the_disk_takes_half_of_goes_on_with_the_other_half(path, kind):
    write = WRITERS[kind]
    _, new = versions(write, path)
    for at in range(1000):
        with pytest.MonkeyPatch.context() as monkeypatch:
            faults = Faults(monkeypatch, path.parent, at, short)
            write(path, NEW)
        assert path.read_bytes() == new
        if faults.steps <= at:
            break


@pytest.mark.parametrize("kind", WRITERS)
def test_wherever_the_room_for_a_file_ends_the_old_one_stays(path, kind):
    write = WRITERS[kind]
    old, new = versions(write, path)
    write(path, OLD)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for room in (0, 1, 100, 130, len(new) // 2, len(new) - 100, len(new) - 1):
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
            with pytest.raises(UserError) as caught:
                write(path, NEW)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert str(caught.value).startswith(f"{path} cannot be written (File too large): ")
        assert path.read_bytes() == old
        assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("kind", "needed"),
    [("pickle", 24_000), ("tensors", 24_000), ("array", 24_000), ("arrays", 24_000), ("text", 16_890)],
)
def test_a_full_disk_says_how_much_was_needed(path, monkeypatch, kind, needed):
    Faults(monkeypatch, path.parent, 0, no_space)
    with pytest.raises(
        UserError, match=f"it needs {needed:,} bytes, and {path.parent} has [0-9,]+ bytes free"
    ):
        WRITERS[kind](path, 1)


def test_a_disk_that_is_full_indeed_ends_a_script_in_one_line_and_leaves_no_part(tmp_path):
    mounts = (["unshare", "--mount"], ["unshare", "--map-root-user", "--mount"])
    room = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", tmp_path]
    probes = [subprocess.run([*mount, *room], capture_output=True, text=True) for mount in mounts]
    able = [mount for mount, probe in zip(mounts, probes, strict=True) if probe.returncode == 0]
    if not able:
        pytest.skip(f"no disk can be mounted here: {probes[-1].stderr}")
    sample = f"{sys.executable} -m kddcup.sample --out {tmp_path}/sample"
    script = f"{' '.join(map(str, room))} && {{ {sample}; code=$?; find {tmp_path} -type f; exit $code; }}"
    done = subprocess.run([*able[0], "sh", "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert_one_line_error(done, "train.tsv cannot be written (No space left on device): ", "bytes free")
    assert ".part" not in done.stdout


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("file/below", "File exists"),
        ("file/far/below", "Not a directory"),
        ("folder", "Is a directory"),
        ("n" * 300, "File name too long"),
        ("/proc/none", "No such file or directory"),
    ],
)
def test_what_cannot_be_written_for_another_reason_is_said_in_one_line(tmp_path, name, reason):
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=f"cannot be written .*{reason}.*name another folder") as caught:
        write_text(tmp_path / name, "new")
    assert "\n" not in str(caught.value)
    assert (tmp_path / "file").read_text() == "old"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["file", "folder"]


def test_a_folder_that_cannot_be_flushed_by_itself_holds_the_file_all_the_same(tmp_path, monkeypatch):
    fsync = os.fsync

    def only_files(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", only_files)
    write_text(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "new"


def packed(folder):
    """An archive of a folder ``info``."""
    source = folder / "source"
    source.write_bytes(some(NEW).tobytes())
    pack(folder / "info.tar.gz", {"info/data.pkl": source, "info/vocabulary/vocab.txt": source})
    return folder / "info.tar.gz"


def test_an_archive_is_unpacked_whole_or_not_at_all_whichever_step_a_run_is_killed_in(tmp_path):
    source, data = packed(tmp_path), tmp_path / "data"

    def work(at):
        with pytest.MonkeyPatch.context() as monkeypatch:
            Faults(monkeypatch, data, at, killed)
            extract(source, data)

    for at in range(1000):
        status = status_of_child(work, at)
        unpacked = (data / "info").exists()
        if not unpacked:
            extract(source, data)
        assert [path.name for path in data.iterdir()] == ["info"]
        for name in ("data.pkl", "vocabulary/vocab.txt"):
            assert (data / "info" / name).read_bytes() == some(NEW).tobytes()
        shutil.rmtree(data)
        if status == 0:
            break
        assert status == -signal.SIGKILL
    assert at >= 5


def test_an_archive_for_which_there_is_no_room_says_how_much_it_needs_and_leaves_nothing(tmp_path):
    source, data = packed(tmp_path), tmp_path / "data"
    limited = f"ulimit -f 8; {sys.executable} -m kddcup.release --extract {source} --to {data}"
    done = subprocess.run(["bash", "-c", limited], cwd=ROOT, capture_output=True, text=True)
    assert_one_line_error(done, f"{data}/info cannot be written (File too large): it needs 48,000 bytes")
    assert list(data.iterdir()) == []
