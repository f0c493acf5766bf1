"""From a finished run to archives, and from the archives to the same submission."""

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from kddcup.io.errors import UserError
from kddcup.io.files import write_json, write_text
from kddcup.io.folders import write_marker
from kddcup.io.tensors import write_tensors
from kddcup.release import MODELS, archive, described, verify
from kddcup.train.checkpoint import RunConfig, checkpoint_path, point_to
from tests.conftest import assert_one_line_error, run_script
from tests.test_stages import copy_scripts, main_sh


def released(folder: Path) -> Path:
    (folder / "a.txt").write_bytes(random.Random(0).randbytes(2_000_000))
    archive(folder / "a.tar.gz", {"ckpt/a.txt": folder / "a.txt"})
    (folder / "MANIFEST.json").write_text(
        json.dumps({"archives": {"a.tar.gz": described(folder / "a.tar.gz")}})
    )
    return folder / "a.tar.gz"


def test_an_archive_depends_on_names_and_contents_alone(tmp_path):
    sums = []
    for number in (1, 2):
        source = tmp_path / f"source{number}"
        source.write_text("text")
        source.chmod(0o600 + number)
        archive(tmp_path / f"{number}.tar.gz", {"b": source, "a": source})
        sums.append(hashlib.sha256((tmp_path / f"{number}.tar.gz").read_bytes()).hexdigest())
    assert sums[0] == sums[1]
    text = hashlib.sha256(b"text").hexdigest()
    assert described(tmp_path / "1.tar.gz")["members"]["a"] == {"bytes": 4, "sha256": text}


def test_verification_passes_what_is_whole_and_names_what_is_not(tmp_path):
    path = released(tmp_path)
    verify(tmp_path)
    (tmp_path / "a.txt").write_text("other")
    archive(path, {"ckpt/a.txt": tmp_path / "a.txt"})
    with pytest.raises(UserError, match=r"a\.tar\.gz is not the one that .*MANIFEST\.json names"):
        verify(tmp_path)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match="no whole archive"):
        verify(tmp_path)
    path.unlink()
    with pytest.raises(UserError, match="does not exist"):
        verify(tmp_path)


def test_an_archive_is_unpacked_into_its_folder_and_never_over_another(tmp_path):
    for name in ("b", "sub/a"):
        (tmp_path / "info" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "info" / name).write_text(name)
    # By hand: names begin with ./, folders have entries, and one file is read-only.
    (tmp_path / "info" / "b").chmod(0o400)
    subprocess.run(["tar", "-czf", "info.tar.gz", "./info"], cwd=tmp_path, check=True)
    done = run_script(
        ".", "-m", "kddcup.release", "--extract", tmp_path / "info.tar.gz", "--to", tmp_path / "data"
    )
    assert done.returncode == 0, done.stderr
    assert "info.tar.gz" in done.stdout
    for name in ("b", "sub/a"):
        unpacked = tmp_path / "data" / "info" / name
        assert unpacked.read_text() == name
        assert unpacked.stat().st_uid == os.getuid()
        assert unpacked.stat().st_mode & 0o600 == 0o600
    unpacked.write_text("mine")
    done = run_script(
        ".", "-m", "kddcup.release", "--extract", tmp_path / "info.tar.gz", "--to", tmp_path / "data"
    )
    assert_one_line_error(done, "data/info exists already", "--to")
    assert unpacked.read_text() == "mine"
    done = run_script(".", "-m", "kddcup.release", "--extract", tmp_path / "none.tar.gz")
    assert_one_line_error(done, "none.tar.gz does not exist")


def test_what_a_release_lacks_is_said_in_one_line(tmp_path):
    done = run_script(tmp_path, "-m", "kddcup.release")
    assert_one_line_error(done, "data/info/complete.json does not exist", "preprocess.py")
    done = run_script(tmp_path, "-m", "kddcup.release", "--verify")
    assert_one_line_error(done, "MANIFEST.json does not exist", "kddcup.release")


@pytest.fixture
def run(tmp_path):
    """What a release needs of a finished run, and what else a run leaves in its folders."""
    info, resources = tmp_path / "data" / "info", tmp_path / "external_resources"
    names = ("data.pkl", "vocabulary/vocab.txt")
    for name in (*names, ".lock", "notes"):
        write_text(info / name, name)
    write_marker(info, names, {"size": "small"})
    write_json(tmp_path / "data" / "valid" / "valid_answer.json", {"1": [7]})
    for model in MODELS:
        folder = tmp_path / model / "checkpoints"
        for epoch in (1, 2):
            config = RunConfig(size="small", training={"use_epoch": 1})
            write_tensors(checkpoint_path(folder, epoch), {"config": asdict(config)})
        point_to(folder, "model-epoch2.pth", "")
        for name in (".lock", "last-step.pth"):
            write_text(folder / name, name)
        write_json(resources / f"valid_pred_{model}.json", {"1": [[7, 1.0], [8, 0.5]]})
    return tmp_path


def test_a_release_has_what_was_finished_and_nothing_that_lies_beside_it(run):
    done = run_script(run, "-m", "kddcup.release")
    assert done.returncode == 0, done.stderr
    manifest = json.loads((run / "release" / "MANIFEST.json").read_text())
    assert {name: set(one["members"]) for name, one in manifest["archives"].items()} == {
        "info.tar.gz": {"info/complete.json", "info/data.pkl", "info/vocabulary/vocab.txt"},
        "model1/ckpt.tar.gz": {"ckpt/model-epoch1.pth"},
        "model2/ckpt.tar.gz": {"ckpt/model-epoch1.pth"},
    }
    assert run_script(run, "-m", "kddcup.release", "--verify").returncode == 0
    for name, folder in (("info.tar.gz", "info"), ("model1/ckpt.tar.gz", "ckpt")):
        unpack = ("--extract", run / "release" / name, "--to", run / "unpacked")
        assert run_script(run, "-m", "kddcup.release", *unpack).returncode == 0
        assert (run / "unpacked" / folder).is_dir()


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
    ],
)
def test_what_is_unfinished_is_not_released(run, name, content, expected):
    if content is None:
        (run / name).unlink()
    else:
        (run / name).write_text(content)
    assert_one_line_error(run_script(run, "-m", "kddcup.release"), expected)
    assert not (run / "release").exists()


@pytest.mark.slow
def test_the_road_from_the_archives_ends_at_the_same_submission(tmp_path):
    made, second = tmp_path / "made", tmp_path / "second"
    for folder in (made, second):
        folder.mkdir()
        copy_scripts(folder)
    sample = (
        "-m",
        "kddcup.sample",
        "--out",
        "data",
        "--train_queries",
        150,
        "--eval_queries",
        5,
        "--dim",
        20,
    )
    run_script(made, *sample).check_returncode()
    done = main_sh(made, NPROC="1")
    assert done.returncode == 0, done.stderr
    for out in ("release", "again"):
        done = run_script(made, "-m", "kddcup.release", "--out", out)
        assert done.returncode == 0, done.stderr
    archives = ["info.tar.gz", "model1/ckpt.tar.gz", "model2/ckpt.tar.gz"]
    for name in archives:
        assert (made / "release" / name).read_bytes() == (made / "again" / name).read_bytes()
    assert "3 archives are as" in run_script(made, "-m", "kddcup.release", "--verify").stdout
    manifest = json.loads((made / "release" / "MANIFEST.json").read_text())
    assert manifest["runs"]["model1"]["size"] == "small"
    assert manifest["runs"]["model2"]["seed"] == 2020
    assert manifest["packages"]["torch"].startswith("2.13.0")
    assert manifest["ndcg@5 on valid"]["blend"] >= max(
        manifest["ndcg@5 on valid"][one] for one in ("model1", "model2")
    )

    for split in ("valid", "testB"):
        shutil.copytree(made / "data" / split, second / "data" / split)
    for name in archives:
        shutil.copy(made / "release" / name, second / name)
    road = """
        set -e
        python -m kddcup.release --extract info.tar.gz --to data
        cd model1; python -m kddcup.release --extract ckpt.tar.gz; python validation.py; cd ..
        cd model2; tar -zxvf ckpt.tar.gz; python validation.py; cd ..
        python ensemble.py
    """
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    walked = subprocess.run(["bash", "-c", road], cwd=second, env=environment, capture_output=True, text=True)
    assert walked.returncode == 0, walked.stderr
    submissions = [
        (folder / "external_resources" / "submission.csv").read_bytes() for folder in (made, second)
    ]
    assert submissions[0] == submissions[1]
