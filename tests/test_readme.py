"""Every command of the README is run, or at least parsed by the script that it names; both READMEs agree."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kddcup.rank.predictions import read_answers
from kddcup.sample import SampleSettings, write_sample
from tests.conftest import ROOT, run_script
from tests.test_stages import copy_scripts

README, CHINESE = (ROOT / name for name in ("README.md", "README.zh.md"))
# By .ci/run or, of the benchmarks, by hand; a test below sees that they are there.
BY_CI = {
    "make sample",
    "make test",
    "make bench",
    "source .venv/bin/activate",
    "SIZE=small TOKENIZER=lexicon NPROC=1 bash main.sh data/sample",
}
SLOW = {"SEED=1 SIZE=small TOKENIZER=lexicon NPROC=1 bash main.sh pictures"}
# What needs GPUs, other machines, a BERT or minutes, or never ends: the program itself parses its flags.
PARSED = {
    "torchrun --nproc_per_node=2 train.py --devices 0 1",
    "torchrun --nproc_per_node=8 train.py --precision bf16 --workers 4",
    "torchrun --nnodes=2 --node_rank=0 --master_addr=HOST --nproc_per_node=4 train.py --timeout 600",
    "torchrun --nnodes=2 --node_rank=1 --master_addr=HOST --nproc_per_node=4 train.py --timeout 600",
    "torchrun --max-restarts=3 --nproc_per_node=2 train.py --save_every 500",
    "python train.py --devices 0",
    "python train.py --resume --save_every 500",
    "python preprocess.py --tokenizer /models/bert-large-uncased",
    "python validation.py --tokenizer /models/bert-large-uncased",
    "python -m tests.stress --minutes 10",
    "python -m benchmarks.scale --rows 3000000 --queries 1350000",
    "tensorboard --logdir model1/checkpoints/tensorboard",
}
# Words added behind a script's name, where the command's own words would take the published size, a BERT, or
# an hour: the epochs are the fewest that leave the checkpoints which the commands name.
SMALL = {
    "preprocess.py": "--size small --tokenizer lexicon",
    "multilabel/train.py": "--epochs 7 --use_epoch 6 --batch_size 16",
    "model1/train.py": "--epochs 6 --use_epoch 5 --batch_size 16",
    "model2/train.py": "--epochs 3 --use_epoch 2 --batch_size 16",
    "kddcup.sample": "--train_queries 30 --eval_queries 4 --dim 8",
}


def blocks(path: Path) -> list[str]:
    """The fenced code blocks, each with its language in the first line."""
    return re.findall(r"^```(\S*\n.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)


def commands(path: Path = README) -> list[tuple[str, str]]:
    """Each command with the folder, relative to the root, that its block has gone to before."""
    found = []
    for block in blocks(path):
        language, _, lines = block.partition("\n")
        folder = "."
        for command in re.split(r"[\n;]", re.sub(r" *#.*", "", lines)) if language == "bash" else []:
            match command.split():
                case ["cd", place]:
                    folder = os.path.normpath(os.path.join(folder, place))
                case [_, *_]:
                    found.append((folder, command.strip()))
    return found


def tables(path: Path) -> list[list[str]]:
    """The rows of each table."""
    return [rows.splitlines() for rows in re.findall(r"(?:^\|.*\|\n)+", path.read_text(), re.MULTILINE)]


def inline(path: Path) -> list[str]:
    """What is code within the text."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`\n]+)`", text)


def shell(command: str, folder: Path) -> None:
    """Run a command as a reader would who has activated this Python's environment."""
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",  # models this small are quickest so
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def tables_for(data: Path) -> None:
    write_sample(SampleSettings(out=str(data), train_queries=30, eval_queries=4, dim=8))


def small(folder: str, command: str) -> str:
    for script, words in SMALL.items():
        place, name = os.path.split(script)
        if folder == (place or "."):
            command = command.replace(name, f"{name} {words}")
    return command


def test_every_command_is_run_in_order(tmp_path):
    made, fresh = tmp_path / "made", tmp_path / "fresh"
    for checkout in (made, fresh):
        checkout.mkdir()
        copy_scripts(checkout)
        tables_for(checkout / "data")
    product = next(iter(read_answers(made / "data" / "valid" / "valid_answer.json").values()))[0]
    checkout = made
    for folder, command in commands():
        if command in BY_CI | SLOW | PARSED:
            continue
        if "--extract info" in command:
            checkout = fresh
            shutil.copytree(made / "release", fresh, dirs_exist_ok=True)
        shell(small(folder, command.replace("PRODUCT_ID", str(product))), checkout / folder)
    submissions = [path / "external_resources" / "submission.csv" for path in (made, fresh)]
    assert submissions[1].read_bytes().count(b"\n") == 1 + 4
    assert (made / "external_resources" / "report.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("command", sorted(SLOW))
def test_long_commands_are_run_on_small_tables(tmp_path, command):
    copy_scripts(tmp_path)
    write_sample(SampleSettings(out=str(tmp_path / "pictures"), train_queries=150, eval_queries=4, dim=8))
    shell(f"export PYTHON={shlex.quote(sys.executable)}; {command}", tmp_path)
    assert (tmp_path / "external_resources" / "pictures" / "submission.csv").is_file()


@pytest.mark.parametrize("command", sorted(PARSED))
def test_flags_of_the_other_commands_are_parsed(command):
    folders = [folder for folder, one in commands() if one == command]
    assert folders, "the README has it no more"
    program, *words = shlex.split(command)
    if program == "tensorboard":
        from tensorboard.program import TensorBoard

        TensorBoard().configure([program, *words])
        return
    if program == "torchrun":
        from torch.distributed.run import get_args_parser

        launched = get_args_parser().parse_args(words)
        words = [launched.training_script, *launched.training_script_args]
    done = run_script(folders[0], *words, "--print_config")
    assert done.returncode == 0, done.stderr


def test_ci_runs_the_makefiles_commands_and_those_are_the_readmes():
    ci, makefile = (ROOT / ".ci" / "run").read_text().splitlines(), (ROOT / "Makefile").read_text()
    assert {"make sample", "make test"} <= set(ci)
    assert "\nVENV := .venv\n" in makefile
    sample = re.search(r"^sample:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)[1]
    assert [line.strip().replace("$(BIN)/", "") for line in sample.splitlines()] == [
        command for _, command in commands() if command.endswith("data/sample")
    ]
    assert "\nbench:" in makefile
    assert "-m benchmarks" in makefile
    assert run_script(".", "-m", "benchmarks", "--help").returncode == 0


def test_every_block_is_of_a_known_language_and_no_exception_is_stale():
    assert {block.partition("\n")[0] for block in blocks(README)} == {"bash", "bibtex"}
    assert {command for _, command in commands()} >= BY_CI | SLOW | PARSED


def test_commands_and_flags_within_the_text_are_among_the_tested_ones():
    tested = [command for _, command in commands()]
    sources = "".join(
        path.read_text()
        for folder in (".", "kddcup", "kddcup/report", "multilabel", "model1", "model2")
        for path in (ROOT / folder).glob("*.py")
    )
    settings = re.findall(r"^class \w*Settings\b.*?\n\n\n", sources, re.MULTILINE | re.DOTALL)
    flags = set(re.findall(r"^    (\w+): ", "".join(settings), re.MULTILINE))
    flags |= {"help", "config", *re.findall(r"--([\w-]+)", "\n".join(tested))}
    for code in inline(README):
        if re.match(r"(python|make|bash|torchrun|tensorboard|tar|cd|[A-Z]+=\w+ .*main\.sh)\b", code):
            one_seed = re.sub(r"^SEED=\d", "SEED=1", code)
            assert any(one_seed in command for command in tested), code
        assert set(re.findall(r"--([\w-]+)", code)) <= flags, code


@pytest.mark.parametrize("path", [README, CHINESE, ROOT / "CONTRIBUTING.md"], ids=lambda path: path.name)
def test_files_and_tests_that_are_named_exist(path):
    text = path.read_text()
    for name in re.findall(r"\btest_\w+\.py", text):
        assert (ROOT / "tests" / name).is_file(), name
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (ROOT / target).is_file(), target


def test_links_within_the_page_lead_to_a_heading():
    for path in (README, CHINESE):
        headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
        anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert set(re.findall(r"\]\(#([^)]+)\)", path.read_text())) <= anchors


def test_both_languages_have_the_same_commands_and_figures():
    assert "(README.zh.md)" in README.read_text()[:200]
    assert "(README.md)" in CHINESE.read_text()[:200]
    assert blocks(README) == blocks(CHINESE)
    for one, other in zip(tables(README), tables(CHINESE), strict=True):
        assert list(map(figures, one)) == list(map(figures, other))
    headings = [re.findall(r"^(#+) ", path.read_text(), re.MULTILINE) for path in (README, CHINESE)]
    assert headings[0] == headings[1]


def figures(row: str) -> list[str]:
    """Numbers and code of a table's row."""
    return sorted(re.findall(r"\d[\d.,]*\d|\d|`[^`]+`", row))


def test_the_map_names_every_module():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    listed = set(re.findall(r"^    (\w+\.py|\w+/) ", text, re.MULTILINE))
    modules = {path.name for path in (ROOT / "kddcup").glob("*.py")} - {"__init__.py"}
    assert listed == modules | {"report/"}
