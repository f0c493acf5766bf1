"""Runs that are killed, told to end, or started twice, and what their successors make of it."""

import json
import re
import signal
import subprocess

import pytest
import torch

from kddcup.io.errors import TERMINATED, UserError
from kddcup.io.folders import lock_folder
from kddcup.train.folder import POINTER, STEP, find_checkpoint, find_newest, point_to
from tests import small
from tests.conftest import ROOT, assert_one_line_error, call_main, run_script

KILLED = ROOT / "tests" / "killed.py"
BATCH, EPOCHS = 64, 2
SAVE_EVERY = 3
slow = pytest.mark.slow


def torchrun(ranks: int, *flags: str) -> list[str]:
    """The launcher's part of a command."""
    if ranks == 1:
        return []
    return ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}", *flags]


def flags(trained, stage: str, out) -> list:
    encoder = ["--encoder", trained / "encoder.pth"] if stage != "multilabel" else []
    return [
        *("--data_dir", trained / "data", "--checkpoints_dir", out, *encoder),
        *("--batch_size", BATCH, "--epochs", EPOCHS, "--use_epoch", 0, "--save_every", SAVE_EVERY),
    ]


def train(trained, stage: str, out, *more: object, ranks: int = 1) -> str:
    """Train to the end, in this process where one is enough; gives what was printed."""
    if ranks == 1:
        return call_main(f"{stage}.train", *flags(trained, stage, out), *more)
    done = run_script(stage, *torchrun(ranks), "train.py", *flags(trained, stage, out), *more)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def undisturbed(trained, tmp_path_factory):
    """The last checkpoint of a run that nothing interrupted, and its last line, by stage and processes."""
    known = {}

    def run(stage: str, ranks: int) -> tuple[dict, str]:
        if (stage, ranks) not in known:
            out = tmp_path_factory.mktemp("undisturbed")
            printed = train(trained, stage, out, ranks=ranks)
            known[stage, ranks] = last(out), losses(printed)
        return known[stage, ranks]

    return run


def last(out) -> dict:
    return torch.load(out / f"model-epoch{EPOCHS - 1}.pth", weights_only=True)


def losses(printed: str) -> str:
    """What the last epoch's line says of losses and NDCG@5."""
    return re.search(rf"epoch {EPOCHS - 1}: (.*NDCG@5 \S+)", printed)[1]


def assert_equal(found: dict, expected: dict) -> None:
    """Parameters, optimizer, random states and place, bit for bit."""
    assert found.keys() == expected.keys()
    for name in found.keys() - {"config"}:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=0)


def killed(trained, stage: str, ranks: int, out, *how: object, launcher=()) -> subprocess.CompletedProcess:
    """Train, and be sent the signal that the arguments of ``killed.py`` describe."""
    command = [*torchrun(ranks, *launcher), KILLED, *how, "train.py"]
    return run_script(stage, *command, *flags(trained, stage, out))


@pytest.mark.parametrize(
    ("stage", "ranks", "what", "count"),
    [
        ("multilabel", 1, "step", 5),
        ("model1", 2, "step", 9),
        pytest.param("model2", 1, "step", 6, marks=slow),
        *(
            pytest.param(stage, ranks, what, count, marks=slow)
            for stage in ("multilabel", "model1", "model2")
            for ranks in (1, 2)
            for what, count in (("step", 2), ("step", 7), ("replace", 1), ("replace", 4), ("replace", 5))
        ),
    ],
)
def test_a_run_that_was_killed_and_resumed_ends_as_if_nothing_had_happened(
    trained, undisturbed, tmp_path, stage, ranks, what, count
):
    expected, line = undisturbed(stage, ranks)
    # Files are written by rank 0; steps are killed on the last rank.
    rank = 0 if what == "replace" else ranks - 1
    dead = killed(trained, stage, ranks, tmp_path, "SIGKILL", what, count, rank)
    assert dead.returncode != 0
    assert not (tmp_path / f"model-epoch{EPOCHS - 1}.pth").exists()
    printed = train(trained, stage, tmp_path, "--resume", ranks=ranks)
    assert "starting from epoch 0" in printed or "resuming" in printed
    assert_equal(last(tmp_path), expected)
    assert losses(printed) == line
    assert not (tmp_path / STEP).exists()


@pytest.mark.parametrize(("stage", "ranks"), [("model2", 1), pytest.param("multilabel", 2, marks=slow)])
def test_sigterm_ends_the_step_saves_and_has_an_exit_code_of_its_own(
    trained, undisturbed, tmp_path, stage, ranks
):
    dead = killed(trained, stage, ranks, tmp_path, "SIGTERM", "step", 4, ranks - 1)
    if ranks == 1:
        assert dead.returncode == TERMINATED
        assert re.fullmatch(r"terminated after epoch 0, step \d: go on with --resume\n", dead.stderr)
    else:
        assert dead.stderr.count("terminated after epoch 0, step") == ranks
    saved = torch.load(tmp_path / STEP, weights_only=True)["state"]
    assert (saved["epoch"], saved["step"]) in {(0, 4), (0, 5)}
    printed = train(trained, stage, tmp_path, "--resume", ranks=ranks)
    expected, line = undisturbed(stage, ranks)
    assert_equal(last(tmp_path), expected)
    assert losses(printed) == line


@slow
def test_ranks_whose_launcher_was_killed_save_and_end(trained, undisturbed, tmp_path):
    # It returns once no rank holds its output any more.
    dead = killed(trained, "model1", 2, tmp_path, "SIGKILL", "step-of-launcher", 4, 0)
    assert dead.returncode == -signal.SIGKILL
    assert dead.stderr.count("terminated after epoch 0, step") == 2
    printed = train(trained, "model1", tmp_path, "--resume", ranks=2)
    expected, line = undisturbed("model1", 2)
    assert_equal(last(tmp_path), expected)
    assert losses(printed) == line


def test_torchrun_restarts_after_a_killed_worker_and_completes(trained, undisturbed, tmp_path):
    # What an earlier run left is not gone on from.
    old = tmp_path / "model-epoch7.pth"
    old.write_bytes(b"of another run")
    done = killed(trained, "model1", 2, tmp_path, "SIGKILL", "step", 9, 1, launcher=["--max-restarts=3"])
    assert done.returncode == 0, done.stderr
    assert "resuming" in done.stdout
    expected, line = undisturbed("model1", 2)
    assert_equal(last(tmp_path), expected)
    assert losses(done.stdout) == line


def test_the_pointer_wins_over_the_epochs_of_an_earlier_run(tmp_path):
    assert find_newest(tmp_path) is None
    (tmp_path / "model-epoch3.pth").touch()
    (tmp_path / "model-epoch10.pth").touch()
    assert find_newest(tmp_path) == tmp_path / "model-epoch10.pth"
    point_to(tmp_path, "model-epoch3.pth", "a run")
    assert find_newest(tmp_path) == tmp_path / "model-epoch3.pth"
    point_to(tmp_path, None, "a run")
    assert find_newest(tmp_path) is None


def test_a_run_that_torchrun_started_anew_does_not_go_on_from_an_earlier_one(tmp_path):
    (tmp_path / "model-epoch3.pth").touch()
    assert find_newest(tmp_path, "earlier") is None
    point_to(tmp_path, "model-epoch3.pth", "earlier")
    assert find_newest(tmp_path, "earlier") == tmp_path / "model-epoch3.pth"
    assert find_newest(tmp_path, "later") is None
    assert find_newest(tmp_path) == tmp_path / "model-epoch3.pth"


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=slow)])
def test_a_run_has_a_name_that_its_restarts_have_and_no_other_run_of_the_same_id(tmp_path, ranks):
    named = []
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    launcher += ["--max-restarts=1", "--rdzv-id=none"]
    for _ in range(2):
        done = run_script(".", *launcher, "-m", "tests.two_ranks", "restart", tmp_path)
        assert done.returncode == 0, done.stderr
        # Two processes' lines can end up in one.
        named.append(re.findall(r"run ([0-9a-f]{32}), restarted (True|False)", done.stdout))
    for lines in named:
        assert len({run for run, _ in lines}) == 1
        assert [restarted for _, restarted in lines] == ["False"] * ranks + ["True"] * ranks
    assert named[0][0] != named[1][0]


def test_a_run_that_cannot_begin_leaves_the_one_of_before_to_be_resumed(trained, tmp_path):
    (tmp_path / "model-epoch0.pth").touch()
    point_to(tmp_path, "model-epoch0.pth", "")
    before = (tmp_path / POINTER).read_bytes()
    (tmp_path / ".last-step.pth.0a1b2c3d.part").touch()
    with pytest.raises(UserError, match="typo"):
        train(trained, "model1", tmp_path, "--data_dir", tmp_path / "typo")
    assert (tmp_path / POINTER).read_bytes() == before
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("pointer", [None, "model-epoch0.pth"])
def test_an_epoch_of_an_earlier_run_is_not_taken_unasked(trained, tmp_path, pointer):
    content = torch.load(trained / "multilabel" / "model-epoch0.pth", weights_only=True)
    content["config"]["training"]["use_epoch"] = 5
    for epoch in (0, 5):
        torch.save(content, tmp_path / f"model-epoch{epoch}.pth")
    point_to(tmp_path, pointer, "")
    with pytest.raises(UserError, match=r"model-epoch5\.pth is of an earlier run"):
        find_checkpoint(small.MULTILABEL, str(tmp_path), None)
    assert find_checkpoint(small.MULTILABEL, str(tmp_path), 5).path.name == "model-epoch5.pth"
    point_to(tmp_path, "model-epoch5.pth", "")
    assert find_checkpoint(small.MULTILABEL, str(tmp_path), None).path.name == "model-epoch5.pth"


@pytest.mark.parametrize("name", ["model-epoch4.pth", STEP, "../other/model-epoch0.pth", "/etc/passwd", 3])
def test_a_pointer_to_what_is_no_checkpoint_of_the_folder_is_refused(tmp_path, name):
    (tmp_path / POINTER).write_text(json.dumps({"checkpoint": name}))
    with pytest.raises(UserError, match="remove it to go on from the last epoch"):
        find_newest(tmp_path)


def test_a_second_run_in_a_folder_stops_and_leaves_the_first_alone(trained, tmp_path):
    with lock_folder(tmp_path):
        done = run_script("model1", "train.py", *flags(trained, "model1", tmp_path))
        assert_one_line_error(done, tmp_path, "being written by another run (process ")
    with lock_folder(tmp_path):
        pass


def at_a_step_that_is_not_there(content: dict) -> None:
    content["state"]["step"] = 10**9
    content["state"]["ranks"][0]["losses"] = {"tagging": torch.tensor(1.0)}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda content: content["config"].update(data="of before"),
            r"epoch0\.pth was trained on other data",
        ),
        (lambda content: content["config"]["training"].update(batch_size=7), f"--batch_size 7, not {BATCH}:"),
        (
            lambda content: content["state"].update(ranks=[{}, {}]),
            "trained by 2 processes, not 1: resume with",
        ),
        (lambda content: content["state"].update(ranks=[]), "trained by 0 processes, not 1"),
        (lambda content: content["state"].update(ranks=[{}]), "cannot be resumed"),
        (lambda content: content["state"].update(step=1), "the losses are not those of the steps"),
        (lambda content: content["state"].update(epoch=-1), "an epoch and a step are counted from 0"),
        (at_a_step_that_is_not_there, "is at step 1000000000 of an epoch that has"),
        (lambda content: content.update(state=None), "cannot be resumed"),
        (lambda content: content["optimizer"]["state"][0].clear(), "cannot be resumed.*without --resume"),
    ],
)
def test_what_cannot_be_gone_on_with_is_refused(trained, tmp_path, change, expected):
    content = torch.load(trained / "multilabel" / "model-epoch0.pth", weights_only=True)
    content["config"]["training"]["batch_size"] = BATCH
    change(content)
    torch.save(content, tmp_path / "model-epoch0.pth")
    with pytest.raises(UserError, match=expected):
        train(trained, "multilabel", tmp_path, "--resume")


@pytest.mark.parametrize("counts", [(3, 2), (11,), "epoch"])
def test_a_run_of_so_many_steps_is_gone_on_with_as_if_it_had_not_ended(
    trained, undisturbed, tmp_path, counts
):
    expected, line = undisturbed("model1", 1)
    per_epoch = int(expected["optimizer"]["state"][0]["step"]) // EPOCHS
    done = 0
    for count in (per_epoch,) if counts == "epoch" else counts:
        printed = train(trained, "model1", tmp_path, "--resume", "--max_steps", count)
        done += count
        newest = find_newest(tmp_path)
        assert newest.name == f"model-epoch{(done - 1) // per_epoch}.pth"
        assert f"{newest}" in printed.splitlines()[-1]
        state = torch.load(newest, weights_only=True)["state"]
        assert (state["epoch"], state["step"]) == divmod(done, per_epoch)
        assert not (tmp_path / STEP).exists()
    printed = train(trained, "model1", tmp_path, "--resume")
    assert_equal(last(tmp_path), expected)
    assert losses(printed) == line


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("data", "rank 1 and rank 0 differ in data (of rank 1, of rank 0): start all processes"),
        ("settings", "rank 1 and rank 0 differ in --seed (1, 0): start all processes"),
    ],
)
def test_ranks_that_disagree_end_at_the_start(tmp_path, what, expected):
    done = run_script(".", *torchrun(2), "-m", "tests.two_ranks", what, tmp_path)
    assert done.returncode != 0
    assert done.stderr.count(expected) == 2
