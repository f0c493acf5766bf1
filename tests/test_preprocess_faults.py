import errno
import gzip
import json
import multiprocessing
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from kddcup.io.errors import UserError
from kddcup.io.folders import lock_folder
from kddcup.table import conversion, ingest
from kddcup.table.ingest import Ingest
from kddcup.table.table import Table
from tests.conftest import DIM, ROOT, assert_one_line_error, run_script, table_row, write_table

FLAGS = ("--tokenizer", "lexicon", "--size", "small")
ROWS = [table_row(i % 9, i % 5, f"red dress {i % 5}", 1 + i % 3) for i in range(14)]


def run(data, *args):
    return run_script(".", "preprocess.py", *FLAGS, "--data_dir", data, *args)


def written(data):
    return {
        str(path.relative_to(data)): path.read_bytes()
        for folder in ("features", "info")
        for path in (data / folder).rglob("*")
        if path.is_file()
    }


def arrays(data):
    """What stage 1 wrote but its markers, which tell one table from another."""
    return {name: content for name, content in written(data).items() if not name.endswith("complete.json")}


def failing(data, mode, first, step, *flags):
    """What tests/failing.py found: k, exit code, message, torn files, exit code and message after, same."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.failing", data, mode, str(first), str(step), *FLAGS, *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("mode", "first", "step", "flags"),
    [
        ("kill", 5, 15, ("--workers", "2")),
        ("full", 8, 17, ()),
        ("cut", 100, 900, ()),
        pytest.param("kill", 1, 1, ("--workers", "2"), marks=pytest.mark.slow),
        pytest.param("full", 1, 1, (), marks=pytest.mark.slow),
        pytest.param("cut", 1, 67, (), marks=pytest.mark.slow),
    ],
)
def test_whichever_change_fails_no_file_is_torn_and_the_next_run_ends_with_the_same_bytes(
    tmp_path, mode, first, step, flags
):
    write_table(tmp_path / "train" / "train.tsv", ROWS)
    runs = failing(tmp_path, mode, first, step, *flags)
    assert len(runs) > 3
    for k, code, said, torn, after, trouble, same in runs[:-1]:
        assert code == (-9 if mode == "kill" else 1), (k, said)
        if mode != "kill":
            assert said.startswith("error: "), (k, said)
            assert "\n" not in said, (k, said)
        assert torn == [], (k, torn)
        assert after == 0, (k, trouble)
        assert same, k
    assert runs[-1][1] == 0
    if mode == "cut":  # the first thing that does not fit is the store
        said = runs[0][2]
        assert re.search(r"it needs [1-9][\d,]* bytes, and .* has [\d,]+ bytes free; make room", said)
        assert "run again, which starts over" in said


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(conversion, "CHUNK_BYTES", 500)
    monkeypatch.setattr(ingest, "COMMIT_BYTES", 1000)


def interrupted(table, folder, monkeypatch, commits, workers=1):
    """A run that ends when it has flushed so many times."""
    commit = Ingest._commit

    def few(self, *args):
        commit(self, *args)
        if len(self._journal) == commits:
            raise KeyboardInterrupt

    done = Ingest(Table(table), folder, "float16", workers)
    with monkeypatch.context() as patch:
        patch.setattr(Ingest, "_commit", few)
        with pytest.raises(KeyboardInterrupt):
            done.run()


def stored(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.npy")}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupted_run_goes_on_where_it_was(
    tmp_path, monkeypatch, small_chunks, capsys, workers, packed
):
    table = write_table(tmp_path / "train.tsv", ROWS)
    if packed:
        table = pack(table)
    whole = Ingest(Table(table), tmp_path / "whole", "float16", 1)
    whole.run()
    interrupted(table, tmp_path / "store", monkeypatch, 2, workers=workers)
    assert stored(tmp_path / "store") == {}
    again = Ingest(Table(table), tmp_path / "store", "float16", workers)
    again.run()
    assert "continuing after" in capsys.readouterr().out
    assert stored(tmp_path / "store") == stored(tmp_path / "whole")
    assert again.contents.digest.hexdigest() == whole.contents.digest.hexdigest()
    names = ("rows", "products", "regions", "outside", "differing", "renamed", "texts")
    for name in names:
        assert getattr(again.contents, name) == getattr(whole.contents, name), name
    for name, column in whole.contents.join_columns().items():
        np.testing.assert_array_equal(again.contents.join_columns()[name], column)
    again.forget()
    assert not (tmp_path / "store" / ".unfinished").exists()


def test_a_converting_process_that_is_killed_ends_the_run_and_the_next_goes_on(
    tmp_path, monkeypatch, small_chunks, capsys
):
    table = Table(write_table(tmp_path / "train.tsv", 9 * ROWS))
    commit = Ingest._commit

    def killing(self, *args):
        commit(self, *args)
        for process in multiprocessing.active_children():
            process.kill()

    with monkeypatch.context() as patch:
        patch.setattr(Ingest, "_commit", killing)
        with pytest.raises(UserError, match=r"train\.tsv: a converting process was killed.*fewer --workers$"):
            Ingest(table, tmp_path / "store", "float16", 2).run()
    Ingest(table, tmp_path / "store", "float16", 2).run()
    assert "continuing after" in capsys.readouterr().out
    Ingest(table, tmp_path / "whole", "float16", 1).run()
    assert stored(tmp_path / "store") == stored(tmp_path / "whole")


def test_converting_processes_that_cannot_start_are_too_many(tmp_path, monkeypatch):
    def start(process):
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", start)
    table = Table(write_table(tmp_path / "train.tsv", ROWS))
    with pytest.raises(UserError, match="cannot be started .*unavailable.*: run again with fewer --workers"):
        Ingest(table, tmp_path / "store", "float16", 2).run()


def test_a_second_run_into_a_folder_stops_and_leaves_the_first_alone(tmp_path):
    write_table(tmp_path / "train" / "train.tsv", ROWS)
    with lock_folder(tmp_path):
        assert_one_line_error(run(tmp_path), f"{tmp_path} is being written by another run (process ")
        assert written(tmp_path) == {}
    assert run(tmp_path).returncode == 0
    assert not any(".lock" in name for name in written(tmp_path))


def edited(table):
    """Another query in the first row, which is as long."""
    table.write_bytes(table.read_bytes().replace(b"red", b"rad", 1))


def grown(table):
    table.write_bytes(table.read_bytes() + table.read_bytes().splitlines(keepends=True)[-1])


def shrunk(table):
    table.write_bytes(b"".join(table.read_bytes().splitlines(keepends=True)[:-1]))


@pytest.mark.parametrize("change", [edited, grown, shrunk])
def test_a_table_that_changed_since_the_interrupted_run_is_read_anew(
    tmp_path, monkeypatch, small_chunks, capsys, change
):
    table = write_table(tmp_path / "train.tsv", ROWS)
    interrupted(table, tmp_path / "store", monkeypatch, 2)
    change(table)
    Ingest(Table(table), tmp_path / "store", "float16", 1).run()
    assert "train.tsv has changed since the interrupted run; starting over" in capsys.readouterr().out
    Ingest(Table(table), tmp_path / "whole", "float16", 1).run()
    assert stored(tmp_path / "store") == stored(tmp_path / "whole")


def test_a_table_with_other_times_and_the_same_contents_goes_on(tmp_path, monkeypatch, small_chunks, capsys):
    table = write_table(tmp_path / "train.tsv", ROWS)
    interrupted(table, tmp_path / "store", monkeypatch, 2)
    os.utime(table, (1, 1))
    Ingest(Table(table), tmp_path / "store", "float16", 1).run()
    assert "continuing after" in capsys.readouterr().out


@pytest.mark.parametrize("change", [edited, grown, shrunk])
def test_a_table_that_changes_while_it_is_read_ends_the_run(tmp_path, small_chunks, change):
    table = Table(write_table(tmp_path / "train.tsv", ROWS))
    change(table.path)
    with pytest.raises(UserError, match=r"train\.tsv changed while it was read.*run again"):
        Ingest(table, tmp_path / "store", "float16", 1).run()
    assert stored(tmp_path / "store") == {}


@pytest.mark.parametrize("change", [edited, grown, shrunk])
def test_finished_work_notices_another_table(tmp_path, change):
    table = write_table(tmp_path / "train" / "train.tsv", ROWS)
    assert run(tmp_path).returncode == 0
    os.utime(table, (1, 1))
    assert "are finished; '--force' redoes them" in run(tmp_path).stdout
    before = written(tmp_path)
    change(table)
    assert_one_line_error(run(tmp_path), f"{table} has changed since", "--force")
    assert written(tmp_path) == before


def test_verify_finds_a_byte_that_is_another(tmp_path):
    write_table(tmp_path / "train" / "train.tsv", ROWS)
    assert run(tmp_path).returncode == 0
    assert "are as they were written" in run(tmp_path, "--verify").stdout
    features = tmp_path / "features" / "features.npy"
    content = bytearray(features.read_bytes())
    content[-1] ^= 1
    features.write_bytes(content)
    assert_one_line_error(run(tmp_path, "--verify"), features, "checksum", "--force")


BAD = {
    3: {"features": "~" * 64},
    6: {"features": np.full((1, DIM), np.nan, np.float32)},
    7: {"boxes": np.full((2, 4), np.inf, np.float32)},
    8: {"num_boxes": 0},
    11: {"class_labels": np.array([-1, 2, 3])},
    12: {"features": np.full((1, DIM), 1e6, np.float32)},
    13: {"image_w": 0},
}
KINDS = {
    3: "features is not base64",
    6: "features is not finite",
    7: "boxes is not finite",
    8: "num_boxes out of range",
    11: "class_labels is negative",
    12: "features too large for float16",
    13: "image_w out of range",
}


def bad_table(path):
    return write_table(path, [{**row, **BAD.get(i, {})} for i, row in enumerate(ROWS)])


def test_bad_rows_are_skipped_listed_and_counted(tmp_path):
    bad_table(tmp_path / "bad" / "train" / "train.tsv")
    write_table(
        tmp_path / "good" / "train" / "train.tsv", [row for i, row in enumerate(ROWS) if i not in BAD]
    )
    done = run(tmp_path / "bad", "--bad_rows", "skip", "--max_bad_rows", len(BAD))
    assert done.returncode == 0, done.stderr
    assert re.search(
        r"skipped 7 bad rows, listed in \S+info/bad_rows\.tsv: .*num_boxes out of range: 1", done.stdout
    )
    assert run(tmp_path / "good").returncode == 0
    found = arrays(tmp_path / "bad")
    lines = [line.split("\t") for line in found.pop("info/bad_rows.tsv").decode().splitlines()]
    assert found == arrays(tmp_path / "good")
    assert lines[0] == ["line", "reason", "detail"]
    assert [line[:2] for line in lines[1:]] == [[str(i + 2), kind] for i, kind in KINDS.items()]
    assert all(len(line) == 3 for line in lines)


def test_too_many_bad_rows_end_the_run_and_are_listed(tmp_path):
    bad_table(tmp_path / "train" / "train.tsv")
    done = run(tmp_path, "--bad_rows", "skip", "--max_bad_rows", len(BAD) - 1)
    report = tmp_path / "info" / "bad_rows.tsv"
    assert_one_line_error(done, "more than 6 bad rows", "num_boxes out of range: 1", report, "--max_bad_rows")
    assert len(report.read_text().splitlines()) == 1 + len(BAD)
    assert_one_line_error(run(tmp_path), "train.tsv, line 5: features is not base64")
    assert written(tmp_path) == {}


@pytest.mark.parametrize(("workers", "size"), [(1, 1), (1, 1000), (1, 1 << 25), (2, 1000)])
def test_bad_rows_have_their_line_numbers_in_whichever_chunk_and_process(
    tmp_path, monkeypatch, workers, size
):
    monkeypatch.setattr(conversion, "CHUNK_BYTES", size)
    table = Table(bad_table(tmp_path / "train.tsv"))
    done = Ingest(table, tmp_path / "store", "float16", workers, tmp_path / "bad_rows.tsv", 100)
    done.run()
    assert [(line, kind) for line, kind, _ in done.bad_rows.rows] == [
        (i + 2, kind) for i, kind in KINDS.items()
    ]


def test_a_table_of_bad_rows_is_refused_though_they_may_be_skipped(tmp_path):
    write_table(tmp_path / "train" / "train.tsv", [{**row, "num_boxes": 0} for row in ROWS])
    assert_one_line_error(run(tmp_path, "--bad_rows", "skip"), "train.tsv has no good row", "bad_rows.tsv")


def test_a_run_that_stopped_at_a_bad_row_goes_on_when_it_may_be_skipped(tmp_path, small_chunks, capsys):
    rows = [*ROWS, {**ROWS[0], "num_boxes": 0}]
    table = Table(write_table(tmp_path / "train.tsv", rows))
    with pytest.raises(UserError, match="line 16: num_boxes must be"):
        Ingest(table, tmp_path / "store", "float16", 1).run()
    Ingest(table, tmp_path / "store", "float16", 1, tmp_path / "bad.tsv", 1).run()
    assert "continuing after" in capsys.readouterr().out


def pack(table):
    """The table as ``.gz`` alone."""
    packed = table.with_name(f"{table.name}.gz")
    packed.write_bytes(gzip.compress(table.read_bytes(), mtime=0))
    table.unlink()
    return packed


def test_a_packed_table_gives_the_same_files(tmp_path):
    for name in ("plain", "packed"):
        write_table(tmp_path / name / "train" / "train.tsv", ROWS)
    pack(tmp_path / "packed" / "train" / "train.tsv")
    assert run(tmp_path / "plain").returncode == 0
    assert run(tmp_path / "packed", "--workers", "2").returncode == 0
    assert arrays(tmp_path / "packed") == arrays(tmp_path / "plain")
    assert "finished" in run(tmp_path / "packed").stdout


def test_a_torn_packed_table_ends_in_one_line(tmp_path):
    packed = pack(write_table(tmp_path / "train" / "train.tsv", ROWS))
    packed.write_bytes(packed.read_bytes()[:-20])
    assert_one_line_error(run(tmp_path), f"{packed} is not a complete gzip file", "get it again")
    assert written(tmp_path) == {}
