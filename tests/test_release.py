"""From a finished run to archives, and from the archives to the same submission."""

import contextlib
import gzip
import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

import kddcup.release.archive
from kddcup import stages
from kddcup.io.errors import UserError
from kddcup.io.errors import run_script as run_in_this_process
from kddcup.io.files import write_json, write_text
from kddcup.io.folders import write_marker
from kddcup.io.tensors import write_tensors
from kddcup.rank.blend import Blend, BlendedModel, Figures
from kddcup.rank.logistic import LOGISTIC, LogisticRanker
from kddcup.release.__main__ import main
from kddcup.release.archive import MAX_BYTES, MAX_HEADER, MAX_MEMBERS, extract, pack, summarize
from kddcup.train.checkpoint import RunConfig
from kddcup.train.folder import checkpoint_path, point_to
from tests.conftest import assert_one_line_error, run_script
from tests.test_stages import copy_scripts, main_sh

CHECKPOINT = "ckpt/model-epoch1.pth"


@pytest.fixture
def release(monkeypatch, capsys):
    """Runs ``python -m kddcup.release`` with flags, in this process."""

    def run(*flags: object) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["release", *map(str, flags)])
        code = 0
        try:
            run_in_this_process(main)
        except SystemExit as end:
            code = end.code
        return subprocess.CompletedProcess(flags, code, *capsys.readouterr())

    return run


def list_files(folder: Path) -> set[str]:
    """The files and the empty folders below a folder."""
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if not path.is_dir() or not any(path.iterdir())
    }


# Pack, summarize, verify


def test_an_archive_depends_on_names_and_contents_alone(tmp_path):
    archives = []
    for number in (1, 2):
        source = tmp_path / f"source{number}"
        source.write_text("text")
        source.chmod(0o600 + number)
        path = tmp_path / f"{number}.tar.gz"
        pack(path, {"ckpt/b.pth": source, "ckpt/a.safetensors": source})
        archives.append(path.read_bytes())
    assert archives[0] == archives[1]
    text = {"bytes": 4, "sha256": hashlib.sha256(b"text").hexdigest()}
    assert summarize(tmp_path / "1.tar.gz") == {
        "bytes": len(archives[0]),
        "sha256": hashlib.sha256(archives[0]).hexdigest(),
        "members": {"ckpt/a.safetensors": text, "ckpt/b.pth": text},
    }


@pytest.fixture
def packed(tmp_path):
    """``release/model1/ckpt.tar.gz`` and its manifest."""
    source = tmp_path / "source"
    source.write_bytes(random.Random(0).randbytes(2_000_000))
    path = tmp_path / "release" / "model1" / "ckpt.tar.gz"
    pack(path, {CHECKPOINT: source})
    write_json(tmp_path / "release" / "MANIFEST.json", {"archives": {"model1/ckpt.tar.gz": summarize(path)}})
    return path


def repack(path: Path) -> None:
    """Pack another checkpoint into an archive."""
    source = path.with_name("other")
    source.write_text("other")
    pack(path, {CHECKPOINT: source})
    source.unlink()


def test_verification_passes_a_sound_release(release, packed):
    done = release("--out", packed.parent.parent, "--verify")
    assert done.returncode == 0, done.stderr
    assert "1 archives are as" in done.stdout


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (repack, "ckpt.tar.gz is not the one that"),
        (lambda path: path.write_bytes(path.read_bytes()[:40]), "ckpt.tar.gz is not a sound archive"),
        (lambda path: path.unlink(), "ckpt.tar.gz does not exist"),
        (lambda path: (path.parent.parent / "MANIFEST.json").unlink(), "MANIFEST.json does not exist"),
    ],
    ids=["repacked", "cut", "absent", "no manifest"],
)
def test_verification_names_what_differs(release, packed, change, expected):
    change(packed)
    assert_one_line_error(release("--out", packed.parent.parent, "--verify"), expected)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([], "names no archives"),
        ({"archives": {}}, "names no archives"),
        ({"archives": {"../info.tar.gz": {}}}, "names '../info.tar.gz', which no release has"),
        ({"archives": {"/etc/passwd": {}}}, "names '/etc/passwd', which no release has"),
        ({"archives": {"model1/../../ckpt.tar.gz": {}}}, "which no release has"),
        ({"archives": {"\x1b[2J/ckpt.tar.gz": {}}}, r"names '\x1b[2J/ckpt.tar.gz', which no release has"),
    ],
)
def test_a_manifest_names_archives_of_its_own_folder_alone(release, packed, content, expected):
    write_json(packed.parent.parent / "MANIFEST.json", content)
    assert_one_line_error(release("--out", packed.parent.parent, "--verify"), expected)


# Unpack


def test_an_archive_packed_by_hand_is_unpacked_into_its_folder_and_never_over_another(release, tmp_path):
    info, to = tmp_path / "info", tmp_path / "data"
    for name in ("data.pkl", "bad_rows.tsv", "MANIFEST.json", "vocabulary/vocab.txt"):
        write_text(info / name, name)
    # Names begin with ./, folders have entries of their own, and one file is read-only.
    (info / "data.pkl").chmod(0o400)
    subprocess.run(["tar", "-czf", "info.tar.gz", "./info"], cwd=tmp_path, check=True)
    done = release("--extract", tmp_path / "info.tar.gz", "--to", to)
    assert done.returncode == 0, done.stderr
    assert "4 files of" in done.stdout
    assert list_files(to / "info") == list_files(info)
    for name in list_files(info):
        unpacked = to / "info" / name
        assert unpacked.read_text() == name
        assert unpacked.stat().st_uid == os.getuid()
        assert unpacked.stat().st_mode & 0o600 == 0o600
    unpacked.write_text("mine")
    done = release("--extract", tmp_path / "info.tar.gz", "--to", to)
    assert_one_line_error(done, "data/info exists already", "--to")
    assert unpacked.read_text() == "mine"


@pytest.mark.parametrize("place", ["release/model1", "release", "release/deeper/model1"])
def test_an_archive_is_compared_with_the_manifest_beside_it_or_above_it(release, packed, tmp_path, place):
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    moved = packed.rename(tmp_path / place / "ckpt.tar.gz")
    done = release("--extract", moved, "--to", tmp_path / "to")
    if place == "release":
        assert_one_line_error(done, "MANIFEST.json does not name", "move the manifest away")
        return
    assert done.returncode == 0, done.stderr
    repack(moved)
    done = release("--extract", moved, "--to", tmp_path / "again")
    if place == "release/model1":
        assert_one_line_error(done, "ckpt.tar.gz differs from what MANIFEST.json says of it")
        assert not (tmp_path / "again").exists()
    else:
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["ckpt.tar.gz", "../model1/ckpt.tar.gz"])
def test_an_archive_named_from_its_own_folder_finds_the_manifest_above(release, packed, monkeypatch, name):
    monkeypatch.chdir(packed.parent)
    repack(packed)
    assert_one_line_error(release("--extract", name), "differs from what MANIFEST.json says")


def test_an_archive_that_changes_while_it_is_unpacked_leaves_nothing(release, packed, tmp_path, monkeypatch):
    (tmp_path / "release" / "MANIFEST.json").unlink()
    write = kddcup.release.archive.atomic_folder

    @contextlib.contextmanager
    def write_late(path, size):
        with write(path, size) as part:
            monkeypatch.undo()
            repack(packed)
            yield part

    monkeypatch.setattr(kddcup.release.archive, "atomic_folder", write_late)
    with pytest.raises(UserError, match="changed while it was read"):
        extract(packed, tmp_path / "to")
    assert list_files(tmp_path / "to") == set()


def test_a_place_that_cannot_be_written_ends_in_one_line(release, packed, tmp_path):
    done = release("--extract", packed, "--to", tmp_path / "source")
    assert_one_line_error(done, "source/ckpt cannot be written")


# Archives that are refused: what each holds, and what is said of it


def make_tar(*members: tuple[str, bytes, dict]) -> bytes:
    """A tar; each member is a name, its content, and attributes of its TarInfo."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content, attributes in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            for attribute, value in attributes.items():
                setattr(entry, attribute, value)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def files(*names: str, content: bytes = b"x", **attributes: object) -> bytes:
    """A tar of files of one content."""
    return make_tar(*((name, content, attributes) for name in names))


def claim(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A header that claims any size."""
    entry = tarfile.TarInfo(name)
    header = bytearray(entry.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)
    header[156:157] = kind
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def sparse(size: int, content: bytes) -> bytes:
    attributes = {"size": size, "map": f"0,{len(content)}", "numblocks": 1}
    headers = {f"GNU.sparse.{name}": str(value) for name, value in attributes.items()}
    return files(CHECKPOINT, content=content, pax_headers=headers)


def attribute(name: str, value: str) -> bytes:
    """Attributes of the next member: one, of a record of 20 bytes."""
    record = f"20 {name}={value}\n".encode()
    assert len(record) == 20
    return claim("a", 20, tarfile.XHDTYPE) + record.ljust(tarfile.BLOCKSIZE, b"\0")


END = bytes(2 * tarfile.BLOCKSIZE)
NO_NAME = "is nothing that a release has"
BAD_KIND = "is a link, a device or a sparse file"
TOO_LARGE = "would unpack to"
LONG_HEADER = "has a header of"
CUT_OFF = "it is cut off"
FOLLOWED = "something follows its last file"
FOLDER = {"content": b"", "type": tarfile.DIRTYPE}
ABSOLUTE = "/kddcup-unpacked-by-a-test"
TWO = files(CHECKPOINT, "ckpt/model-epoch2.pth")  # two blocks each, then the end mark
SOUND = gzip.compress(TWO)

TARS = {
    # Names: by the first, the next validation.py would import it; by the second, git would run it.
    "a package": (lambda: files("numpy/__init__.py"), NO_NAME),
    "settings of a repository": (lambda: files(".git/config"), NO_NAME),
    "a module beside a checkpoint": (lambda: files(CHECKPOINT, "ckpt/torch.py"), NO_NAME),
    "a hidden file": (lambda: files("ckpt/.model-epoch1.pth"), NO_NAME),
    "a hidden folder": (lambda: files("ckpt/.git/config"), NO_NAME),
    "a pointer to resume from": (lambda: files("ckpt/resume.json"), NO_NAME),
    "a checkpoint under info": (lambda: files("info/model-epoch1.pth"), NO_NAME),
    "what stage 1 does not write": (lambda: files("info/vocabulary/tokenizer.py"), NO_NAME),
    "a checkpoint one folder deeper": (lambda: files("ckpt/more/model-epoch1.pth"), NO_NAME),
    "a checkpoint beside the folder": (lambda: files("model-epoch1.pth"), NO_NAME),
    "a file for a folder": (lambda: files("ckpt"), NO_NAME),
    "a folder for a file": (lambda: files(CHECKPOINT, **FOLDER), NO_NAME),
    "another folder": (lambda: files("ckpt/more", **FOLDER), NO_NAME),
    "the folder above": (lambda: files("..", **FOLDER), NO_NAME),
    "a way out": (lambda: files("../outside"), NO_NAME),
    "a way out and in again": (lambda: files("ckpt/../../model1/ckpt/a.pth"), NO_NAME),
    "an absolute name": (lambda: files(ABSOLUTE), NO_NAME),
    "a long name": (lambda: files(f"ckpt/{'a' * 300}.pth"), NO_NAME),
    "3,000 folders": (lambda: files(f"ckpt/{'a/' * 3000}b.pth"), NO_NAME),
    "terminal codes in a name": (lambda: files("ckpt/\x1b[2J\x1b[31m.pth"), r"'ckpt/\x1b[2J\x1b[31m.pth' is"),
    "two lines in a name": (lambda: files("ckpt/a\nerror: b.pth"), r"'ckpt/a\nerror: b.pth' is"),
    "a name from right to left": (lambda: files("ckpt/\u202eht.pth"), r"'ckpt/\u202eht.pth' is"),
    "half a character in a name": (lambda: files("ckpt/\udc80.pth"), r"'ckpt/\udc80.pth' is"),
    "the same name twice": (lambda: files(CHECKPOINT, CHECKPOINT), "is there twice"),
    "one name in two ways": (lambda: files(CHECKPOINT, f"./{CHECKPOINT}"), "is there twice"),
    "two folders": (lambda: files(CHECKPOINT, "info/data.pkl"), "does not hold one folder"),
    "folders alone": (lambda: files("ckpt", **FOLDER), "does not hold one folder"),
    "nothing": (lambda: files(), "does not hold one folder"),
    # Kinds
    "a symbolic link": (lambda: files(CHECKPOINT, type=tarfile.SYMTYPE, linkname="../../a"), BAD_KIND),
    "a link for a folder": (lambda: files("ckpt", type=tarfile.SYMTYPE, linkname="/"), BAD_KIND),
    "a hard link": (lambda: files(CHECKPOINT, type=tarfile.LNKTYPE, linkname="/etc/passwd"), BAD_KIND),
    "a fifo": (lambda: files(CHECKPOINT, type=tarfile.FIFOTYPE), BAD_KIND),
    "a character device": (lambda: files(CHECKPOINT, type=tarfile.CHRTYPE, devmajor=1), BAD_KIND),
    "a block device": (lambda: files(CHECKPOINT, type=tarfile.BLKTYPE, devmajor=7), BAD_KIND),
    "a sparse file": (lambda: sparse(1 << 35, b"x"), BAD_KIND),
    "a sparse file smaller than its content": (lambda: sparse(10, bytes(1000)), BAD_KIND),
    "a sparse file of GNU": (lambda: claim(CHECKPOINT, 1 << 40, tarfile.GNUTYPE_SPARSE) + END, BAD_KIND),
    # Sizes
    "many members": (lambda: files(*(f"ckpt/{i}.pth" for i in range(MAX_MEMBERS + 1))), "1,000 members"),
    "20 MB of one byte": (lambda: files(CHECKPOINT, content=bytes(20_000_000)), TOO_LARGE),
    "a petabyte": (lambda: claim(CHECKPOINT, 1 << 50), TOO_LARGE),
    "more than any release": (lambda: claim(CHECKPOINT, MAX_BYTES + 1), TOO_LARGE),
    "a negative size": (lambda: claim(CHECKPOINT, -512), TOO_LARGE),
    "a size by attributes": (lambda: attribute("size", "99999999999") + claim(CHECKPOINT, 1), TOO_LARGE),
    "a long header": (lambda: files(f"ckpt/{'a/' * MAX_HEADER}"), LONG_HEADER),
    "long attributes": (lambda: files(CHECKPOINT, pax_headers={"comment": "a" * 10_000_000}), LONG_HEADER),
    "attributes of a terabyte": (lambda: claim(CHECKPOINT, 1 << 40, tarfile.XHDTYPE), LONG_HEADER),
    "a name of a terabyte": (lambda: claim("a", 1 << 40, tarfile.GNUTYPE_LONGNAME), LONG_HEADER),
    "a name of a negative size": (lambda: claim("a", -512, tarfile.GNUTYPE_LONGNAME), LONG_HEADER),
    "attributes of attributes": (lambda: claim(CHECKPOINT, 0, tarfile.XHDTYPE) * 5000, "not a sound archive"),
    # Ends
    "content that is cut off": (lambda: claim(CHECKPOINT, 600) + bytes(100), "unexpected end of data"),
    "no end mark": (lambda: TWO[: 4 * tarfile.BLOCKSIZE], CUT_OFF),
    "half an end mark": (lambda: TWO[: 5 * tarfile.BLOCKSIZE], CUT_OFF),
    "a damaged second header": (lambda: TWO.replace(b"ckpt/model-epoch2", b"ckpt/model-epoch3"), FOLLOWED),
    "a file after the end mark": (lambda: TWO[: 6 * tarfile.BLOCKSIZE] + TWO, FOLLOWED),
    "a megabyte of zeros": (lambda: TWO + bytes(MAX_HEADER), FOLLOWED),
    "text": (lambda: b"not a table of contents" * 100, "not a sound archive"),
    "no byte": (lambda: b"", "not a sound archive"),
}
"""A tar, which is then packed, and what is said of it."""

FILES = {
    "an empty file": (b"", "not a sound archive"),
    "text": (b"text", "Not a gzipped file"),
    "the start of a header": (b"\x1f\x8b", "ended before"),
    "another format": (b"BZh91AY", "Not a gzipped file"),
    "a second archive behind": (SOUND + SOUND, FOLLOWED),
    "garbage behind": (SOUND + b"garbage", "Not a gzipped file"),
    "a damaged gzip member behind": (SOUND + gzip.compress(b"")[:-1], "ended before"),
}
"""The bytes of a file that is no archive, and what is said of it."""


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """An empty folder ``model1``, in which an archive is unpacked."""
    folder = tmp_path / "model1"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        *(
            pytest.param(lambda build=build: gzip.compress(build()), text, id=name)
            for name, (build, text) in TARS.items()
        ),
        *(
            pytest.param(lambda content=content: content, text, id=name)
            for name, (content, text) in FILES.items()
        ),
    ],
)
def test_an_archive_is_refused_before_anything_is_written(release, checkout, build, expected):
    (checkout / "ckpt.tar.gz").write_bytes(build())
    done = release("--extract", "ckpt.tar.gz")
    assert_one_line_error(done, "ckpt.tar.gz is not a sound archive of a release", expected, "get it again")
    assert done.stderr.rstrip("\n").isprintable()
    assert len(done.stderr) < 500
    assert list_files(checkout.parent) == {"model1/ckpt.tar.gz"}
    assert not os.path.lexists(ABSOLUTE)


@pytest.mark.parametrize(
    "content",
    [
        SOUND,
        SOUND + bytes(512),
        SOUND + gzip.compress(b""),
        gzip.compress(TWO[:700]) + gzip.compress(TWO[700:]),
        gzip.compress(files("./" + CHECKPOINT, "ckpt/model-epoch2.pth")),
    ],
    ids=["one member", "zeros behind", "an empty member behind", "two members", "a name with a dot"],
)
def test_what_gzip_and_tar_take_for_one_archive_is_unpacked(release, checkout, content):
    (checkout / "ckpt.tar.gz").write_bytes(content)
    done = release("--extract", "ckpt.tar.gz")
    assert done.returncode == 0, done.stderr
    assert list_files(checkout / "ckpt") == {"model-epoch1.pth", "model-epoch2.pth"}


@pytest.mark.parametrize("manifest", [False, True])
def test_an_absent_archive_is_named(release, checkout, manifest):
    if manifest:
        write_json(checkout.parent / "MANIFEST.json", {"archives": {"model1/ckpt.tar.gz": {}}})
    assert_one_line_error(release("--extract", "none.tar.gz"), "none.tar.gz does not exist: name an archive")


@pytest.fixture
def small(tmp_path):
    """A small archive, its bytes, and its one file's content."""
    content = b"0123456789" * 6
    (tmp_path / "source").write_bytes(content)
    path = tmp_path / "ckpt.tar.gz"
    pack(path, {CHECKPOINT: tmp_path / "source"})
    return path, path.read_bytes(), content


def test_an_archive_cut_anywhere_is_refused(small, tmp_path):
    path, packed, _ = small
    for length in range(len(packed)):
        path.write_bytes(packed[:length])
        with pytest.raises(UserError, match="not a sound archive"):
            extract(path, tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_an_archive_with_any_bit_flipped_is_refused_or_unpacks_to_the_same_bytes(small, tmp_path):
    path, packed, content = small
    expected = summarize(path)
    unpacked = 0
    for bit in range(8 * len(packed)):
        flipped = bytearray(packed)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        # With a manifest, every one is refused.
        with pytest.raises(UserError, match="not a sound archive|differs from what MANIFEST"):
            extract(path, tmp_path / "to", expected)
        assert not (tmp_path / "to").exists()
        # Without one, a bit may flip where no content is: in the time, the system or the padding.
        with contextlib.suppress(UserError):
            extract(path, tmp_path / "to")
            unpacked += 1
            assert (tmp_path / "to" / CHECKPOINT).read_bytes() == content
            shutil.rmtree(tmp_path / "to")
        assert not (tmp_path / "to").exists()
    assert unpacked < 80


# Release


@pytest.fixture
def run(tmp_path, monkeypatch):
    """What a release needs of a finished run, and what else a run leaves in its folders."""
    info, resources = tmp_path / "data" / "info", tmp_path / "external_resources"
    names = ("data.pkl", "vocabulary/vocab.txt")
    for name in (*names, ".lock", "notes"):
        write_text(info / name, name)
    write_marker(info, names, {"size": "small"})
    for stage in stages.list_matchers():
        write_matcher(tmp_path, stage)
    monkeypatch.chdir(tmp_path)
    write_blend(resources)
    return tmp_path


def write_matcher(root: Path, stage: stages.Stage) -> None:
    """The checkpoints and the predictions of a matcher."""
    folder = root / stage.name / "checkpoints"
    for epoch in (1, 2):
        config = RunConfig(size="small", training={"use_epoch": 1, "seed": 7})
        write_tensors(checkpoint_path(folder, epoch), {"config": asdict(config)})
    point_to(folder, "model-epoch2.pth", "")
    for name in (".lock", "last-step.pth"):
        write_text(folder / name, name)
    for table in ("valid", "test"):
        write_json(
            stages.predictions_path(root / "external_resources", table, stage.name),
            {"1": [[7, 1.0], [8, 0.5]]},
        )


def write_blend(resources: Path, names: list[str] | None = None) -> None:
    """The ``blend.json`` of models of these names, by default of all matchers."""
    names = names or stages.list_blended("full")
    models = tuple(
        BlendedModel(
            name,
            stages.predictions_path(resources, "valid", name),
            stages.predictions_path(resources, "test", name),
            1 / len(names),
        )
        for name in names
    )
    figures = Figures(0.2, dict.fromkeys(names, 0.5), 0.6)
    Blend(models, "zscore", "exact", "testB", {"valid": figures}).write(resources)


def test_a_release_has_what_was_finished_and_nothing_that_lies_beside_it(release, run):
    done = release()
    assert done.returncode == 0, done.stderr
    manifest = json.loads((run / "release" / "MANIFEST.json").read_text())
    assert {name: set(archive["members"]) for name, archive in manifest["archives"].items()} == {
        "info.tar.gz": {"info/complete.json", "info/data.pkl", "info/vocabulary/vocab.txt"},
        "model1/ckpt.tar.gz": {CHECKPOINT},
        "model2/ckpt.tar.gz": {CHECKPOINT},
    }
    assert list_files(run / "release") == {"MANIFEST.json", *manifest["archives"]}
    assert manifest["runs"]["model2"] == {
        "checkpoint": "model-epoch1.pth",
        "size": "small",
        "seed": 7,
        "training": {"use_epoch": 1, "seed": 7},
    }
    assert manifest["blend"] == json.loads((run / "external_resources" / "blend.json").read_text())
    assert set(manifest["packages"]) == {"torch", "numpy", "scikit-learn", "tokenizers"}
    assert release("--verify").returncode == 0
    for name, folder in (("info.tar.gz", "info"), ("model1/ckpt.tar.gz", "ckpt")):
        done = release("--extract", run / "release" / name, "--to", run / "unpacked")
        assert done.returncode == 0, done.stderr
        assert (run / "unpacked" / folder).is_dir()


def test_the_same_run_gives_the_same_bytes(release, run):
    for out in ("release", "again"):
        assert release("--out", out).returncode == 0
    first, second = (
        {name: (run / out / name).read_bytes() for name in list_files(run / out)}
        for out in ("release", "again")
    )
    assert first == second


def test_a_release_has_an_archive_for_each_matcher_of_the_list(release, run, monkeypatch):
    third = replace(stages.find("model1"), name="model3")
    monkeypatch.setattr(stages, "STAGES", (*stages.STAGES, third))
    write_matcher(run, third)
    write_blend(run / "external_resources")
    done = release()
    assert done.returncode == 0, done.stderr
    manifest = json.loads((run / "release" / "MANIFEST.json").read_text())
    assert set(manifest["archives"]) == {"info.tar.gz", *(f"model{n}/ckpt.tar.gz" for n in (1, 2, 3))}
    assert set(manifest["runs"]) == {model["name"] for model in manifest["blend"]["models"]}


def test_stage_2_and_the_regressions_are_released_where_they_are_blended(release, run):
    resources = run / "external_resources"
    write_matcher(run, stages.find("multilabel"))
    for table in ("valid", "test"):
        write_json(stages.predictions_path(resources, table, "logistic"), {"1": [[7, 1.0], [8, 0.5]]})
    LogisticRanker(["red"], np.ones((1, 2), np.float32), np.ones(1, np.float32)).write(resources / LOGISTIC)
    write_blend(resources, ["multilabel", "model1", "logistic"])
    done = release()
    assert done.returncode == 0, done.stderr
    manifest = json.loads((run / "release" / "MANIFEST.json").read_text())
    archives = {"multilabel/ckpt.tar.gz", "model1/ckpt.tar.gz", "logistic/ckpt.tar.gz"}
    assert set(manifest["archives"]) == {"info.tar.gz", *archives}
    assert set(manifest["runs"]) == {"multilabel", "model1"}
    assert release("--verify").returncode == 0
    done = release("--extract", run / "release" / "logistic" / "ckpt.tar.gz", "--to", run / "unpacked")
    assert done.returncode == 0, done.stderr
    assert (run / "unpacked" / "ckpt" / LOGISTIC).read_bytes() == (resources / LOGISTIC).read_bytes()

    (resources / LOGISTIC).write_bytes(b"torn")
    assert_one_line_error(release(), LOGISTIC, "python -m kddcup.baseline")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("data/info/complete.json", None, "complete.json does not exist: run 'python preprocess.py"),
        ("data/info/data.pkl", None, "data.pkl does not exist: make it with 'python preprocess.py"),
        ("data/info/data.pkl", "d", "data.pkl has 1 bytes and had 8"),
        ("data/info/data.pkl", "data.PKL", "data.pkl is not what was written"),
        ("data/info/vocabulary/.vectors.npz.part", "", "finish 'python preprocess.py"),
        ("model1/checkpoints/.model-epoch2.pth.part", "", "finish 'cd model1; python train.py'"),
        ("model2/checkpoints/model-epoch1.pth", None, "model2; python train.py"),
        ("external_resources/blend.json", None, "blend.json does not exist: run 'python ensemble.py'"),
        ("external_resources/blend.json", "{}", "blend.json does not describe a blend"),
    ],
)
def test_what_is_unfinished_is_not_released(release, run, name, content, expected):
    if content is None:
        (run / name).unlink()
    else:
        (run / name).write_text(content)
    assert_one_line_error(release(), expected)
    assert not (run / "release").exists()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("../../secret", "complete.json does not say what is finished"),
        ("secret", "names 'info/secret', which stage 1 does not write"),
    ],
)
def test_a_marker_that_names_other_files_releases_none_of_them(release, run, name, expected):
    info = run / "data" / "info"
    (info / name).write_text("secret")
    write_marker(info, ["data.pkl", name], {"size": "small"})
    assert_one_line_error(release(), expected)
    assert not (run / "release").exists()


def test_the_command_says_in_one_line_what_a_release_lacks(tmp_path):
    done = run_script(tmp_path, "-m", "kddcup.release")
    assert_one_line_error(done, "data/info/complete.json does not exist", "preprocess.py")


@pytest.mark.slow
def test_the_archives_of_a_run_give_its_submission(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        copy_scripts(folder)
    sample = ("--out", "data", "--train_queries", 150, "--eval_queries", 5, "--dim", 20)
    run_script(first, "-m", "kddcup.sample", *sample).check_returncode()
    done = main_sh(first, NPROC="1")
    assert done.returncode == 0, done.stderr
    done = run_script(first, "-m", "kddcup.release")
    assert done.returncode == 0, done.stderr
    done = run_script(first, "-m", "kddcup.release", "--verify")
    assert f"{1 + len(stages.list_blended('small'))} archives are as" in done.stdout
    manifest = json.loads((first / "release" / "MANIFEST.json").read_text())
    assert manifest["runs"]["model1"]["size"] == "small"
    assert manifest["runs"]["model2"]["seed"] == 2020
    assert manifest["packages"]["torch"].startswith("2.13.0")
    valid = manifest["blend"]["ndcg@5"]["valid"]
    assert valid["blend"] >= max(valid["models"].values())

    for split in ("valid", "testB"):
        shutil.copytree(first / "data" / split, second / "data" / split)
    shutil.copytree(first / "release", second, dirs_exist_ok=True)
    commands = """
        set -e
        python -m kddcup.release --extract info.tar.gz --to data
        cd multilabel; python -m kddcup.release --extract ckpt.tar.gz; python validation.py; cd ..
        cd model1; python -m kddcup.release --extract ckpt.tar.gz; python validation.py; cd ..
        python -m kddcup.release --extract logistic/ckpt.tar.gz --to logistic
        python -m kddcup.baseline --model logistic/ckpt/logistic.npz
        cd model2; tar -zxvf ckpt.tar.gz; python validation.py; cd ..
        python ensemble.py
    """
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", commands], cwd=second, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    submissions = [
        (folder / "external_resources" / "submission.csv").read_bytes() for folder in (first, second)
    ]
    assert submissions[0] == submissions[1]
