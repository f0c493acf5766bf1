"""Every command of the README and of docs/ is run, or at least parsed by the program that it names."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kddcup.rank.predictions import read_answers
from kddcup.sample import SampleSettings, write_sample
from tests.conftest import ROOT, run_script
from tests.test_stages import copy_scripts

README, CHINESE = ROOT / "README.md", ROOT / "README.zh.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))
# Run by .ci/run or, of the benchmarks, by hand.
BY_CI = {
    "make sample",
    "make test",
    "make bench",
    "source .venv/bin/activate",
    "SIZE=small TOKENIZER=lexicon bash main.sh data/sample",
}
# What needs GPUs, other machines, a BERT or minutes, or never ends: the program itself parses its flags.
PARSED = (
    "torchrun",
    "python train.py --devices 0",
    "python train.py --resume --save_every 500",
    "python preprocess.py --tokenizer /models/bert-large-uncased",
    "python validation.py --tokenizer /models/bert-large-uncased",
    "python -m tests.stress",
    "python -m benchmarks",
    "python -m kddcup.search serve",
    "tensorboard",
)
# Words added behind a script's name, where the command's own words would take the published size, a BERT, or
# an hour: the epochs are the fewest that leave the checkpoints which the commands name.
SMALL = {
    "preprocess.py": "--size small --tokenizer lexicon",
    "multilabel/train.py": "--epochs 7 --use_epoch 6 --batch_size 16",
    "model1/train.py": "--epochs 6 --use_epoch 5 --batch_size 16",
    "model2/train.py": "--epochs 3 --use_epoch 2 --batch_size 16",
    "ensemble.py": "--models model1 model2",
    "kddcup.sample": "--train_queries 30 --eval_queries 4 --dim 8",
    "kddcup.catalogue": "--products 100",
}


def blocks(path: Path) -> list[str]:
    """The fenced code blocks, each with its language in the first line."""
    return re.findall(r"^```(\S*\n.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)


def commands(path: Path) -> Iterator[tuple[str, str]]:
    """Each command with the folder, relative to the root, that its block has gone to before."""
    for block in blocks(path):
        language, _, lines = block.partition("\n")
        folder = "."
        for command in re.split(r"[\n;]", re.sub(r" *#.*", "", lines)) if language == "bash" else []:
            match command.split():
                case ["cd", place]:
                    folder = os.path.normpath(os.path.join(folder, place))
                case [_, *_]:
                    yield folder, command.strip()


def is_run(command: str) -> bool:
    """Whether the tests run it, and do not leave it to others or only parse its flags."""
    return command not in BY_CI and not command.startswith((*PARSED, "python -m pytest"))


def shell(command: str, folder: Path) -> None:
    """Run a command as a reader would who has activated this Python's environment."""
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def shrink(folder: str, command: str) -> str:
    """The command at a size that takes seconds."""
    for script, words in SMALL.items():
        place, name = os.path.split(script)
        if folder == (place or "."):
            command = command.replace(name, f"{name} {words}")
    return command


def make_checkout(folder: Path) -> Path:
    """A checkout with small tables in the competition's place."""
    folder.mkdir()
    copy_scripts(folder)
    write_sample(SampleSettings(out=str(folder / "data"), train_queries=30, eval_queries=4, dim=8))
    return folder


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout in which the README's commands have been run in order, up to the archives."""
    root = make_checkout(tmp_path_factory.mktemp("readme") / "trained")
    product = next(iter(read_answers(root / "data" / "valid" / "valid_answer.json").values()))[0]
    for folder, command in commands(README):
        if "--extract" in command:
            break
        if is_run(command):
            shell(shrink(folder, command.replace("PRODUCT_ID", str(product))), root / folder)
    return root


def test_the_readmes_commands_end_with_a_submission_and_a_page(checkout):
    resources = checkout / "external_resources"
    assert (resources / "submission.csv").read_bytes().count(b"\n") == 1 + 4
    assert (resources / "report.html").is_file()


def test_the_archives_of_a_run_give_its_submission_in_another_checkout(checkout, tmp_path):
    fresh = make_checkout(tmp_path / "fresh")
    shell("python -m kddcup.release --out release", checkout)
    shutil.copytree(checkout / "release", fresh, dirs_exist_ok=True)
    listed = list(commands(README))
    start = next(i for i, (_, command) in enumerate(listed) if "--extract" in command)
    for folder, command in listed[start:]:
        if is_run(command):
            shell(shrink(folder, command), fresh / folder)
    submissions = [root / "external_resources" / "submission.csv" for root in (checkout, fresh)]
    assert submissions[0].read_bytes() == submissions[1].read_bytes()


# The page on pictures runs all stages, twice.
PAGE_CASES = [
    pytest.param(page, marks=[pytest.mark.slow] if page.stem == "own-pictures" else []) for page in PAGES
]


@pytest.mark.parametrize("page", PAGE_CASES, ids=[page.stem for page in PAGES])
def test_a_pages_commands_run(checkout, page):
    known = set(commands(README))
    for folder, command in commands(page):
        if is_run(command) and (folder, command) not in known:
            shell(shrink(folder, command), checkout / folder)


def parsed() -> list[tuple[str, str]]:
    """The commands whose flags alone are parsed."""
    found = [entry for page in (README, *PAGES) for entry in commands(page) if entry[1].startswith(PARSED)]
    return sorted(set(found))


@pytest.mark.parametrize(("folder", "command"), parsed())
def test_flags_of_the_other_commands_are_parsed(folder, command):
    program, *words = shlex.split(command)
    if program == "tensorboard":
        from tensorboard.program import TensorBoard

        TensorBoard().configure([program, *words])
        return
    if program == "torchrun":
        from torch.distributed.run import get_args_parser

        launched = get_args_parser().parse_args(words)
        words = [launched.training_script, *launched.training_script_args]
    done = run_script(folder, *words, "--print_config")
    assert done.returncode == 0, done.stderr


def test_ci_runs_the_makefiles_commands_and_those_are_the_readmes():
    ci, makefile = (ROOT / ".ci" / "run").read_text().splitlines(), (ROOT / "Makefile").read_text()
    assert {"make sample", "make test"} <= set(ci)
    sample = re.search(r"^sample:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)[1]
    assert [line.strip().replace("$(BIN)/", "") for line in sample.splitlines()] == [
        command for _, command in commands(README) if command.endswith("data/sample")
    ]


@pytest.mark.parametrize(
    "path", [README, CHINESE, ROOT / "CONTRIBUTING.md", *PAGES], ids=lambda path: path.name
)
def test_files_and_tests_that_are_named_exist(path):
    text = path.read_text()
    for name in re.findall(r"\btest_\w+\.py", text):
        assert (ROOT / "tests" / name).is_file(), name
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (path.parent / target).exists(), target


def test_both_languages_have_the_same_commands_and_figures():
    assert "(README.zh.md)" in README.read_text()[:200]
    assert "(README.md)" in CHINESE.read_text()[:200]
    code = [[block for block in blocks(path) if block.startswith("bash")] for path in (README, CHINESE)]
    assert code[0] == code[1]
    rows = [re.findall(r"^\|.*\|$", path.read_text(), re.MULTILINE) for path in (README, CHINESE)]
    for english, chinese in zip(*rows, strict=True):
        assert find_figures(english) == find_figures(chinese)
    headings = [re.findall(r"^(#+) ", path.read_text(), re.MULTILINE) for path in (README, CHINESE)]
    assert headings[0] == headings[1]


def find_figures(row: str) -> list[str]:
    """Numbers and code of a table's row."""
    return sorted(re.findall(r"\d[\d.,]*\d|\d|`[^`]+`", row))


def test_the_map_names_every_module():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for path in (ROOT / "kddcup").rglob("*.py"):
        name = path.parent.name + "/" if path.name in ("__init__.py", "__main__.py") else path.name
        assert name in text, path
