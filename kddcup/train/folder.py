"""The folder of a run's checkpoints: which there are, which is the newest, which one to use."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from kddcup.io.errors import UserError
from kddcup.io.files import read_json, write_json
from kddcup.stages import Stage
from kddcup.train.checkpoint import Checkpoint, find_best

_NAME = re.compile(r"model-epoch(\d+)\.(pth|safetensors)")
STEP = "last-step.pth"
"""The checkpoint within an epoch; the epoch's own takes its place."""
POINTER = "resume.json"
"""The file that names the checkpoint to go on from: epochs of an earlier run may lie in the same folder."""


def checkpoint_path(folder: str | os.PathLike, epoch: int) -> Path:
    """``FOLDER/model-epochN.pth``."""
    return Path(folder) / f"model-epoch{epoch}.pth"


def list_checkpoints(folder: str | os.PathLike, suffix: str = "*") -> dict[int, Path]:
    """Find a folder's checkpoints by their epochs, in ascending order.

    Args:
        folder: where to look.
        suffix: ``pth`` or ``safetensors``, which have weights alone; by default either, ``pth`` first.
    """
    paths = sorted(Path(folder).glob(f"model-epoch*.{suffix}"), reverse=True)
    found = {int(name[1]): path for path in paths if (name := _NAME.fullmatch(path.name))}
    return dict(sorted(found.items()))


def point_to(folder: str | os.PathLike, name: str | None, run: str) -> None:
    """Say which checkpoint of the folder the ``run`` is to be gone on from; None for its start."""
    write_json(Path(folder) / POINTER, {"checkpoint": name, "run": run})


def find_newest(folder: str | os.PathLike, run: str | None = None) -> Path | None:
    """The checkpoint to go on from; without :data:`POINTER` that of the last epoch; None for the start.

    Args:
        folder: of the checkpoints.
        run: whose checkpoint it has to be; by default any run's.

    Raises:
        UserError: the pointer is torn, or names no checkpoint of the folder.
    """
    pointer = Path(folder) / POINTER
    if not pointer.is_file():
        checkpoints = list_checkpoints(folder, "pth")
        return checkpoints[max(checkpoints)] if checkpoints and run is None else None
    advice = "remove it to go on from the last epoch"
    content = read_json(pointer, advice)
    name = content.get("checkpoint") if isinstance(content, dict) else ""
    if name is None or (run is not None and content.get("run") != run):
        return None
    if not isinstance(name, str) or not (name == STEP or _NAME.fullmatch(name)):
        raise UserError(f"{pointer} names no checkpoint: {advice}")
    if not (Path(folder) / name).is_file():
        raise UserError(f"{pointer} names {name}, which is not there: {advice}")
    return Path(folder) / name


def find_checkpoint(stage: Stage, folder: str | None, epoch: int | None) -> Checkpoint:
    """Read the checkpoint that validation and export take; says which it took.

    Args:
        stage: whose checkpoint.
        folder: where to look; by default ``./checkpoints`` if it has that epoch, else ``./ckpt``.
        epoch: by default the ``use_epoch`` of the config of the newest checkpoint in the folder, or the
            published epoch where it has no config.

    Raises:
        UserError: there is none.
    """
    folders = [folder] if folder else ["./checkpoints", "./ckpt"]
    made_by = f"cd {stage.name}; python train.py"
    looked = []
    for place in folders:
        present = list_checkpoints(place)
        wanted = _read_use_epoch(stage, present, made_by) if epoch is None else epoch
        if epoch is None and wanted in present and _is_of_earlier_run(Path(place), wanted, made_by):
            raise UserError(
                f"{present[wanted]} is of an earlier run, and that in {place} is not so far: "
                f"go on with '{made_by} --resume', or name an epoch with --epoch"
            )
        if wanted in present:
            print(f"{stage.name}: epoch {wanted} of {place}")
            return Checkpoint.read(present[wanted], made_by)
        wish = "checkpoint" if wanted is None else f"model-epoch{wanted}.pth"
        looked.append(f"{place} has no {wish} (epochs there: {list(present) or 'none'})")
        if below := sorted({path.parent for path in Path(place).glob("*/model-epoch*.*")}):
            looked.append(f"{below[0]} below it has checkpoints: name it with --checkpoints_dir")
    raise UserError(f"{', '.join(looked)}; train it with '{made_by}', or name another with --epoch")


def _read_use_epoch(stage: Stage, checkpoints: Mapping[int, Path], made_by: str) -> int | None:
    """The epoch to use, of the newest checkpoint of the folder; None where there is no checkpoint."""
    if not checkpoints:
        return None
    newest = Checkpoint.read(max(checkpoints.values(), key=lambda path: path.stat().st_mtime), made_by)
    chosen = newest.config.training.get("use_epoch", stage.published_epoch)
    return find_best(newest.config.valid) if chosen == "best" else chosen


def _is_of_earlier_run(folder: Path, epoch: int, made_by: str) -> bool:
    """Whether the run that :data:`POINTER` is of has not finished an epoch of which there is a file."""
    if not (folder / POINTER).is_file():
        return False
    newest = find_newest(folder)
    if newest is None:
        return True
    if newest.name == STEP:
        match Checkpoint.read(newest, made_by).parts:
            case {"state": {"epoch": int(current)}}:
                return current <= epoch
        return False
    return int(_NAME.fullmatch(newest.name)[1]) < epoch
