"""Stage 2: export the image encoder and the captioner of a checkpoint, for stages 3 and 4.

Example, in this folder:

python export_model.py --epoch 6
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jsonargparse.typing import NonNegativeInt

from kddcup import stages
from kddcup.cli import parse_settings
from kddcup.io.errors import UserError, run_script
from kddcup.train.checkpoint import SAFETENSORS, write_checkpoint
from kddcup.train.folder import find_checkpoint

STAGE = stages.find("multilabel")


@dataclass
class ExportSettings:
    """Export.

    Args:
        epoch: of the checkpoint, from 0; by default the one that its config says to use.
        checkpoints_dir: by default ./checkpoints if it has that epoch, else ./ckpt.
        format: of the file, which is also its suffix.
        out_path: where they go; by default ../user_data/image_encoder_large.FORMAT.
    """

    epoch: NonNegativeInt | None = None
    checkpoints_dir: str | None = None
    format: Literal["pth", "safetensors"] = "pth"
    out_path: str | None = None


def main() -> None:
    """Export them.

    Raises:
        UserError: the name of the file says another format; or there is no such checkpoint.
    """
    settings = parse_settings(ExportSettings, __doc__)
    path = Path(settings.out_path or f"../user_data/image_encoder_large.{settings.format}")
    if (path.suffix == SAFETENSORS) != (settings.format == "safetensors"):
        raise UserError(f"--out_path {path} and --format {settings.format} name two formats: change one")
    checkpoint = find_checkpoint(STAGE, settings.checkpoints_dir, settings.epoch)
    model = checkpoint.build(STAGE)
    parts = {"item": model.item, "captioner": model.captioner}
    write_checkpoint(path, parts, checkpoint.config)
    print(f"image encoder and captioner of {checkpoint.path}: {path}")


if __name__ == "__main__":
    run_script(main)
