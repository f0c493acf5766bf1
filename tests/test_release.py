"""From a finished run to archives, and from the archives to the same submission."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kddcup.errors import UserError
from kddcup.release import archive, described, verify
from tests.conftest import assert_one_line_error, run_script
from tests.test_stages import copy_scripts, main_sh


def released(folder: Path) -> Path:
    (folder / "a.txt").write_text("text")
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


def test_what_a_release_lacks_is_said_in_one_line(tmp_path):
    assert_one_line_error(
        run_script(tmp_path, "-m", "kddcup.release"), "data/info does not exist", "preprocess.py"
    )
    done = run_script(tmp_path, "-m", "kddcup.release", "--verify")
    assert_one_line_error(done, "MANIFEST.json does not exist", "kddcup.release")


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
        tar -zxvf info.tar.gz -C ./data
        cd model1; tar -zxvf ckpt.tar.gz; python validation.py; cd ..
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
