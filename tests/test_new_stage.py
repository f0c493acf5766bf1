"""A new matcher as CONTRIBUTING.md describes it: its own folder and one entry in the table of the stages."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

HOUSE = ("kddcup", "multilabel", "model1", "model2", "preprocess.py", "ensemble.py", "main.sh")


def read_files() -> dict[str, str]:
    """The fenced files of CONTRIBUTING.md, by the name in their first line."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    return dict(re.findall(r"^```python\n# (\S+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with the new stage in it."""
    root = tmp_path_factory.mktemp("house")
    for name in HOUSE:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, root / name)
    shutil.rmtree(root / "model1" / "checkpoints", ignore_errors=True)
    shutil.rmtree(root / "model2" / "checkpoints", ignore_errors=True)
    files = read_files()
    stages = root / "kddcup" / "stages.py"
    table, entry = stages.read_text(), files.pop("kddcup/stages.py")
    assert table.count('\n)\n"""') == 1
    stages.write_text(table.replace('\n)\n"""', f'\n{entry})\n"""'))
    (root / "attention").mkdir()
    for name, text in files.items():
        (root / name).write_text(text)
    return root


def run(house: Path, folder: str, *args: object) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, args)],
        cwd=house / folder,
        env={**os.environ, "PYTHONPATH": str(house), "HF_HUB_OFFLINE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_third_matcher_trains_scores_blends_reports_and_is_released(house: Path, trained: Path):
    data = house / "data"
    shutil.copytree(trained / "data", data)
    epochs = ("--epochs", 1, "--use_epoch", 0)
    for name in ("model1", "model2", "attention"):
        log = run(house, name, "train.py", "--encoder", trained / "encoder.pth", *epochs)
        assert re.search(r"epoch 0: .*valid NDCG@5", log)
        assert f"{name} on testB: NDCG@5" in run(house, name, "validation.py")

    blended = run(house, ".", "ensemble.py", "--models", "model1", "model2", "attention")
    assert re.search(r"^  attention +0\.\d+", blended, re.MULTILINE)
    run(house, ".", "-m", "kddcup.report")
    assert "attention" in (house / "external_resources" / "report.html").read_text()
    run(house, ".", "-m", "kddcup.release", "--out", "release")
    manifest = json.loads((house / "release" / "MANIFEST.json").read_text())
    assert "attention/ckpt.tar.gz" in manifest["archives"]
    assert (house / "release" / "attention" / "ckpt.tar.gz").is_file()
    run(house, ".", "-m", "kddcup.release", "--out", "release", "--verify")
