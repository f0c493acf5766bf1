"""Runs that are killed, told to end, or started twice, and what their successors make of it."""

import json
import re
import signal
import subprocess

import pytest
import torch

from kddcup.io.errors import TERMINATED, UserError
from kddcup.io.folders import lock_folder
from kddcup.train.checkpoint import POINTER, STEP, find_checkpoint, newest_checkpoint, point_to
from tests.conftest import ROOT, assert_one_line_error, run_script

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
        *("train.py", "--data_dir", trained / "data", "--checkpoints_dir", out, *encoder),
        *("--batch_size", BATCH, "--epochs", EPOCHS, "--use_epoch", 0, "--save_every", SAVE_EVERY),
    ]


@pytest.fixture(scope="module")
def whole(trained, tmp_path_factory):
    """The last checkpoint of a run that nothing interrupted, and its last line, by stage and processes."""
    known = {}

    def run(stage: str, ranks: int) -> tuple[dict, str]:
        if (stage, ranks) not in known:
            out = tmp_path_factory.mktemp("whole")
            done = run_script(stage, *torchrun(ranks), *flags(trained, stage, out))
            assert done.returncode == 0, done.stderr
            known[stage, ranks] = last(out), losses(done.stdout)
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


def killed(trained, stage: str, ranks: int, out, *told: object, launcher=()) -> subprocess.CompletedProcess:
    return run_script(stage, *torchrun(ranks, *launcher), KILLED, *told, *flags(trained, stage, out))


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
    trained, whole, tmp_path, stage, ranks, what, count
):
    expected, line = whole(stage, ranks)
    # Files are written by rank 0; steps are killed on the last rank.
    rank = 0 if what == "replace" else ranks - 1
    dead = killed(trained, stage, ranks, tmp_path, "SIGKILL", what, count, rank)
    assert dead.returncode != 0
    assert not (tmp_path / f"model-epoch{EPOCHS - 1}.pth").exists()
    done = run_script(stage, *torchrun(ranks), *flags(trained, stage, tmp_path), "--resume")
    assert done.returncode == 0, done.stderr
    assert "starting from epoch 0" in done.stdout or "resuming" in done.stdout
    assert_equal(last(tmp_path), expected)
    assert losses(done.stdout) == line
    assert not (tmp_path / STEP).exists()


@pytest.mark.parametrize(("stage", "ranks"), [("model2", 1), pytest.param("multilabel", 2, marks=slow)])
def test_sigterm_ends_the_step_saves_and_has_an_exit_code_of_its_own(trained, whole, tmp_path, stage, ranks):
    dead = killed(trained, stage, ranks, tmp_path, "SIGTERM", "step", 4, ranks - 1)
    if ranks == 1:
        assert dead.returncode == TERMINATED
        assert re.fullmatch(r"terminated after epoch 0, step \d: go on with --resume\n", dead.stderr)
    else:
        assert dead.stderr.count("terminated after epoch 0, step") == ranks
    saved = torch.load(tmp_path / STEP, weights_only=True)["state"]
    assert (saved["epoch"], saved["step"]) in {(0, 4), (0, 5)}
    done = run_script(stage, *torchrun(ranks), *flags(trained, stage, tmp_path), "--resume")
    assert done.returncode == 0, done.stderr
    expected, line = whole(stage, ranks)
    assert_equal(last(tmp_path), expected)
    assert losses(done.stdout) == line


@slow
def test_ranks_whose_launcher_was_killed_save_and_end(trained, whole, tmp_path):
    # It returns once no rank holds its output any more.
    dead = killed(trained, "model1", 2, tmp_path, "SIGKILL", "step-of-launcher", 4, 0)
    assert dead.returncode == -signal.SIGKILL
    assert dead.stderr.count("terminated after epoch 0, step") == 2
    done = run_script("model1", *torchrun(2), *flags(trained, "model1", tmp_path), "--resume")
    assert done.returncode == 0, done.stderr
    expected, line = whole("model1", 2)
    assert_equal(last(tmp_path), expected)
    assert losses(done.stdout) == line


def test_torchrun_restarts_after_a_killed_worker_and_completes(trained, whole, tmp_path):
    # What an earlier run left is not gone on from.
    old = tmp_path / "model-epoch7.pth"
    old.write_bytes(b"of another run")
    told = ("SIGKILL", "step", 9, 1)
    done = killed(trained, "model1", 2, tmp_path, *told, launcher=["--max-restarts=3"])
    assert done.returncode == 0, done.stderr
    assert "resuming" in done.stdout
    expected, line = whole("model1", 2)
    assert_equal(last(tmp_path), expected)
    assert losses(done.stdout) == line


def test_the_pointer_wins_over_the_epochs_of_an_earlier_run(tmp_path):
    assert newest_checkpoint(tmp_path) is None
    (tmp_path / "model-epoch3.pth").touch()
    (tmp_path / "model-epoch10.pth").touch()
    assert newest_checkpoint(tmp_path) == tmp_path / "model-epoch10.pth"
    point_to(tmp_path, "model-epoch3.pth", "a run")
    assert newest_checkpoint(tmp_path) == tmp_path / "model-epoch3.pth"
    point_to(tmp_path, None, "a run")
    assert newest_checkpoint(tmp_path) is None


def test_a_run_that_torchrun_started_anew_does_not_go_on_from_an_earlier_one(tmp_path):
    (tmp_path / "model-epoch3.pth").touch()
    assert newest_checkpoint(tmp_path, "earlier") is None
    point_to(tmp_path, "model-epoch3.pth", "earlier")
    assert newest_checkpoint(tmp_path, "earlier") == tmp_path / "model-epoch3.pth"
    assert newest_checkpoint(tmp_path, "later") is None
    assert newest_checkpoint(tmp_path) == tmp_path / "model-epoch3.pth"


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
    for told in named:
        assert len({run for run, _ in told}) == 1
        assert [restarted for _, restarted in told] == ["False"] * ranks + ["True"] * ranks
    assert named[0][0] != named[1][0]


def test_a_run_that_cannot_begin_leaves_the_one_of_before_to_be_resumed(trained, tmp_path):
    (tmp_path / "model-epoch0.pth").touch()
    point_to(tmp_path, "model-epoch0.pth", "")
    before = (tmp_path / POINTER).read_bytes()
    (tmp_path / ".last-step.pth.0a1b2c3d.part").touch()
    done = run_script("model1", *flags(trained, "model1", tmp_path), "--data_dir", tmp_path / "typo")
    assert_one_line_error(done, "typo")
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
        find_checkpoint("multilabel", str(tmp_path), None)
    assert find_checkpoint("multilabel", str(tmp_path), 5).path.name == "model-epoch5.pth"
    point_to(tmp_path, "model-epoch5.pth", "")
    assert find_checkpoint("multilabel", str(tmp_path), None).path.name == "model-epoch5.pth"


@pytest.mark.parametrize("name", ["model-epoch4.pth", STEP, "../other/model-epoch0.pth", "/etc/passwd", 3])
def test_a_pointer_to_what_is_no_checkpoint_of_the_folder_is_refused(tmp_path, name):
    (tmp_path / POINTER).write_text(json.dumps({"checkpoint": name}))
    with pytest.raises(UserError, match="remove it to go on from the last epoch"):
        newest_checkpoint(tmp_path)


def test_a_second_run_in_a_folder_stops_and_leaves_the_first_alone(trained, tmp_path):
    with lock_folder(tmp_path):
        done = run_script("model1", *flags(trained, "model1", tmp_path))
        assert_one_line_error(done, str(tmp_path), "being written by another run (process ")
    with lock_folder(tmp_path):
        pass


def test_data_that_changed_are_not_resumed_on(trained, tmp_path):
    content = torch.load(trained / "multilabel" / "model-epoch0.pth", weights_only=True)
    content["config"]["data"] = "of before"
    content["config"]["training"] |= {"batch_size": BATCH}
    torch.save(content, tmp_path / "model-epoch0.pth")
    done = run_script("multilabel", *flags(trained, "multilabel", tmp_path), "--resume")
    assert_one_line_error(done, "model-epoch0.pth", "other data")


@pytest.mark.parametrize("broken", [{}, {"ranks": []}, {"ranks": [{}], "epoch": 0, "step": 0}, None])
def test_a_checkpoint_without_a_run_to_go_on_with_is_refused(trained, tmp_path, broken):
    content = torch.load(trained / "multilabel" / "model-epoch0.pth", weights_only=True)
    content["config"]["training"] |= {"batch_size": BATCH}
    content["state"] = broken
    torch.save(content, tmp_path / "model-epoch0.pth")
    done = run_script("multilabel", *flags(trained, "multilabel", tmp_path), "--resume")
    assert_one_line_error(done, str(tmp_path), "resume")


@pytest.mark.parametrize(
    ("told", "now", "said"),
    [
        ({"batch_size": 7}, {}, f"--batch_size 7, not {BATCH}: resume with the same"),
        ({}, {"ranks": [{}, {}]}, "was trained by 2 processes, not 1: resume with as many"),
    ],
)
def test_a_run_of_another_batch_or_of_other_processes_is_not_gone_on_with(trained, tmp_path, told, now, said):
    content = torch.load(trained / "multilabel" / "model-epoch0.pth", weights_only=True)
    content["config"]["training"] |= {"batch_size": BATCH, **told}
    content["state"] |= now
    torch.save(content, tmp_path / "model-epoch0.pth")
    done = run_script("multilabel", *flags(trained, "multilabel", tmp_path), "--resume")
    assert_one_line_error(done, said)


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("data", "rank 1 has another data (of rank 1) than rank 0 (of rank 0): start all processes"),
        ("settings", "rank 1 has another --seed (1) than rank 0 (0): start all processes"),
        ("code", "rank 1 has another code (of rank 1) than rank 0 (of rank 0): start all processes"),
    ],
)
def test_ranks_that_disagree_end_at_the_start(tmp_path, what, expected):
    done = run_script(".", *torchrun(2), "-m", "tests.two_ranks", what, tmp_path)
    assert done.returncode != 0
    assert done.stderr.count(expected) == 2


def test_an_empty_batch_on_one_rank_does_not_hang_the_other(tmp_path):
    done = run_script(".", *torchrun(2), "-m", "tests.two_ranks", "empty", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "epoch 0:" in done.stdout
    zero, one = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    torch.testing.assert_close(zero, one, rtol=0, atol=0)
