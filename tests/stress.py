"""The five stages under random kills: do they end as if nothing had happened? Example, some minutes long:

    python -m tests.stress --minutes 10 --seed 0

On a small sample every command runs once undisturbed, which is the reference. Then, round after round, each
command is killed, and started again until it comes through, and the files of the round are compared with the
reference's. What goes wrong is printed; the folder is kept then, and the exit code is 1.
"""

import contextlib
import ctypes
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from jsonargparse.typing import NonNegativeInt, PositiveFloat

from kddcup.cli import parse_settings
from kddcup.io.errors import TERMINATED, UserError, run_script
from kddcup.io.folders import LOCK, lock_folder
from kddcup.sample import SampleSettings, write_sample
from kddcup.train.folder import POINTER
from tests.conftest import ROOT
from tests.test_resume import KILLED, assert_equal, torchrun

SAMPLE = {"train_queries": 150, "eval_queries": 6, "dim": 32}
TRAIN = ("--epochs", 2, "--use_epoch", 1, "--batch_size", 16, "--save_every", 2)
TURNS = 2
"""Which stages train in one process and which in two."""
SIGNALS = (signal.SIGKILL, signal.SIGTERM)
KILLS = 5
"""At most, before a command is let through."""
END_SECONDS = 240
"""In which a command ends, disturbed or not: otherwise it hangs."""
LEAVE_SECONDS = 15
"""In which the processes that a command started follow it."""
EVENTS = "events.out.tfevents"
"""TensorBoard's files, which have the time in their names."""
PR_SET_CHILD_SUBREAPER = 36


@dataclass
class StressSettings:
    """Settings of the stress run.

    Args:
        minutes: of rounds under kills; the reference comes before, and the last round is finished in peace.
        seed: of what is killed when. The machine's load has its say in it, too.
    """

    minutes: PositiveFloat = 10.0
    seed: NonNegativeInt = 0


class Fault(Exception):
    """A command or a file is not as it would have been without kills."""


@dataclass(frozen=True)
class Command:
    """One command of the pipeline.

    Args:
        place: the folder that it runs in, from the repository's root.
        script: in there.
        flags: of the script.
        writes: files that it puts into place, at least.
        ranks: processes that it runs in.
        resumes: whether it takes --resume, and saves when it is sent SIGTERM.
    """

    place: str
    script: str
    flags: tuple[object, ...]
    writes: int
    ranks: int = 1
    resumes: bool = False

    @property
    def name(self) -> str:
        """For the report."""
        where = self.script if self.place == "." else f"{self.place}/{self.script}"
        return f"{where} in 2 processes" if self.ranks > 1 else where


def pipeline(folder: Path, turn: int) -> list[Command]:
    """The stages' commands, all of whose files are in ``folder``; by turns they train in one and two."""
    encoder, resources = folder / "encoder.pth", folder / "resources"
    data = ("--data_dir", folder / "data")
    commands = [
        Command(".", "preprocess.py", (*data, "--size", "small", "--tokenizer", "lexicon", "--workers", 2), 8)
    ]
    for place, stage in enumerate(("multilabel", "model1", "model2")):
        saved = ("--checkpoints_dir", folder / stage)
        exported = ("--encoder", encoder) if place else ()
        ranks = 1 + (turn + place) % 2
        commands.append(Command(stage, "train.py", (*data, *saved, *exported, *TRAIN), 12, ranks, True))
        if place:
            valid, test = (resources / f"{split}_pred_{stage}.json" for split in ("valid", "test"))
            flags = (*data, *saved, "--valid_out_path", valid, "--test_out_path", test)
            commands.append(Command(stage, "validation.py", flags, 2))
        else:
            commands.append(Command(stage, "export_model.py", (*saved, "--out_path", encoder), 1))
    return [*commands, Command(".", "ensemble.py", (*data, "--resources_dir", resources), 1)]


@dataclass(frozen=True)
class Kill:
    """A signal to come.

    Args:
        signal: which.
        write: sent before so many files are put into place by the first process, or
        moment: sent when so many seconds have passed, to
        rank: this one of the processes that train together, or the launcher, where it is None.
    """

    signal: signal.Signals
    write: int | None = None
    moment: float = 0.0
    rank: int | None = None


def draw(rng: random.Random, command: Command, seconds: float) -> Kill:
    """A kill of a command that takes so many seconds undisturbed."""
    which = rng.choice(SIGNALS)
    if rng.random() < 0.4:
        return Kill(which, write=rng.randint(1, command.writes))
    # Later moments are likelier, since the first half goes by with imports.
    moment = rng.triangular(0, seconds, seconds)
    return Kill(which, moment=moment, rank=rng.choice((None, 0, 1)) if command.ranks > 1 else None)


class Runner:
    """Runs commands, kills them, and sees that no process is left.

    Args:
        log: gets what they print.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        # The orphans of a launcher that is killed become this process' children.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def run(self, command: Command, kill: Kill | None = None, resume: bool = False) -> bool:
        """Run a command; gives whether it came through.

        Raises:
            Fault: it ended otherwise than it should, did not end, or left processes behind.
        """
        started = torchrun(command.ranks)
        if kill and kill.write:
            started += [KILLED, kill.signal.name, "replace", kill.write, 0]
        started += [command.script, *command.flags, *(["--resume"] if resume and command.resumes else [])]
        with open(self._log, "a", encoding="utf-8") as log:
            print(f"+ {command.place}: {' '.join(map(str, started))}  {kill or ''}", file=log, flush=True)
            running = subprocess.Popen(
                [sys.executable, *map(str, started)],
                cwd=ROOT / command.place,
                # One thread: the machine may have other work, and a step then waits for the slower of two.
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            orphaned = bool(kill) and not kill.write and self._send(running, kill)
            try:
                code = running.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                raise Fault(f"{command.name} hangs after {END_SECONDS} s, {kill or 'undisturbed'}") from None
        self._see_off(command, kill, orphaned)
        if code not in self._expected(command, kill):
            raise Fault(f"{command.name} ended with exit code {code}, {kill or 'undisturbed'}")
        return code == 0

    def _send(self, running: subprocess.Popen, kill: Kill) -> bool:
        """Send the signal unless all is over; gives whether that leaves processes without their launcher."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(kill.moment)
            return False
        with contextlib.suppress(psutil.NoSuchProcess):
            ranks = [] if kill.rank is None else psutil.Process(running.pid).children()
            if len(ranks) > 1:
                ranks[kill.rank].send_signal(kill.signal)
                return False
        running.send_signal(kill.signal)
        return kill.signal == signal.SIGKILL

    def _see_off(self, command: Command, kill: Kill | None, orphaned: bool) -> None:
        """See that what a command started has ended; what lost its launcher to a SIGKILL is ended here."""
        orphaned = orphaned and command.ranks > 1
        _, left = psutil.wait_procs(self._left(), 0 if orphaned else LEAVE_SECONDS)
        if left and not orphaned:
            raise Fault(f"{command.name} left processes behind, {kill or 'undisturbed'}: {left}")
        self.end()

    def _left(self) -> list[psutil.Process]:
        return psutil.Process().children(recursive=True)

    def end(self) -> None:
        """Kill every process that a command has left."""
        while left := self._left():
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(left, LEAVE_SECONDS)

    @staticmethod
    def _expected(command: Command, kill: Kill | None) -> set[int]:
        """The exit codes that a command may end with."""
        if kill is None:
            return {0}
        if command.ranks > 1:
            # Whatever a rank ends with, its launcher ends with 1.
            return {0, 1, -kill.signal}
        return {0, -kill.signal} | (
            {TERMINATED} if command.resumes and kill.signal == signal.SIGTERM else set()
        )


def fresh(folder: Path, sample: Path) -> Path:
    """A folder with the sample's tables, where nothing has been made of them."""
    (folder / "data").mkdir(parents=True)
    for table in sample.iterdir():
        (folder / "data" / table.name).symlink_to(table)
    return folder


def files(folder: Path) -> dict[str, Path]:
    """What the stages wrote, by name."""
    return {
        str(path.relative_to(folder)): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink() and not path.name.startswith(EVENTS)
    }


def compare(found: Path, expected: Path) -> None:
    """See that a round's folder has the files of its reference, of the same contents, and no lock is held.

    Raises:
        Fault: what differs.
    """
    ours, theirs = files(found), files(expected)
    if ours.keys() != theirs.keys():
        raise Fault(f"files of one alone: {', '.join(sorted(ours.keys() ^ theirs.keys()))}")
    for name, path in ours.items():
        if path.name == LOCK:
            with lock_folder(path.parent):
                continue
        if path.name == POINTER:  # it names its run, too
            pointed = [json.loads(file.read_text())["checkpoint"] for file in (path, theirs[name])]
            if pointed[0] != pointed[1]:
                raise Fault(f"{path} differs from {theirs[name]}")
            continue
        if path.suffix != ".pth":
            if path.read_bytes() != theirs[name].read_bytes():
                raise Fault(f"{path} differs from {theirs[name]}")
            continue
        # The config tells the folders and --resume, in which the runs differ.
        checkpoints = (torch.load(file, weights_only=True) for file in (path, theirs[name]))
        try:
            assert_equal(*checkpoints)
        except AssertionError as error:
            raise Fault(f"{path} differs from {theirs[name]}: {error}") from None


class Stress:
    """Rounds of the pipeline under kills, beside one of each turn without.

    Args:
        folder: of all files, which exists.
        runner: of the commands.
        seed: of the kills.
    """

    def __init__(self, folder: Path, runner: Runner, seed: int) -> None:
        self._folder, self._runner, self._rng = folder, runner, random.Random(seed)
        self._sample = folder / "sample"
        self._seconds: list[list[float]] = []
        self.rounds = self.restarts = 0
        self.kills: Counter[tuple[str, str]] = Counter()
        """By command and signal, those that ended a run before its time."""

    def reference(self) -> None:
        """Run both turns undisturbed."""
        write_sample(SampleSettings(out=str(self._sample), **SAMPLE))
        for turn in range(TURNS):
            seconds = []
            for command in pipeline(fresh(self._reference(turn), self._sample), turn):
                begun = time.monotonic()
                self._runner.run(command)
                seconds.append(time.monotonic() - begun)
            self._seconds.append(seconds)

    def round(self, deadline: float) -> None:
        """Run a turn under kills, which end at the deadline, and compare.

        Raises:
            Fault: it is not as the reference.
        """
        turn = self.rounds % TURNS
        folder = fresh(self._folder / f"round{self.rounds}", self._sample)
        for command, seconds in zip(pipeline(folder, turn), self._seconds[turn], strict=True):
            for tried in range(KILLS + 1):
                safe = tried == KILLS or time.monotonic() > deadline
                kill = None if safe else draw(self._rng, command, seconds)
                self.restarts += tried > 0
                if self._runner.run(command, kill, resume=tried > 0):
                    break
                self.kills[command.name, kill.signal.name] += 1
        compare(folder, self._reference(turn))
        shutil.rmtree(folder)
        self.rounds += 1

    def _reference(self, turn: int) -> Path:
        return self._folder / f"reference{turn}"


def main() -> None:
    """Run rounds until the time is up, and report."""
    settings = parse_settings(StressSettings, __doc__)
    folder = Path(tempfile.mkdtemp(prefix="stress"))
    # So that what has been started is ended then, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    runner = Runner(folder / "log.txt")
    stress = Stress(folder, runner, settings.seed)
    fault = None
    try:
        stress.reference()
        deadline = time.monotonic() + 60 * settings.minutes
        while time.monotonic() < deadline:
            stress.round(deadline)
    except Fault as error:
        fault = error
    finally:
        runner.end()
        print(
            f"{settings.minutes:g} minutes, {stress.rounds} rounds, {stress.kills.total()} kills, "
            f"{stress.restarts} restarts"
        )
        for (name, which), count in sorted(stress.kills.items()):
            print(f"  {name:<32} {which} {count:3}")
    if fault:
        raise UserError(f"{fault}; see {folder / 'log.txt'}")
    shutil.rmtree(folder)
    print("all equal")


if __name__ == "__main__":
    run_script(main)
