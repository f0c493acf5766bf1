"""Stage 2: export the image encoder of a checkpoint for stages 3 and 4. Example, in this folder:

python export_model.py --epoch 6
"""

from dataclasses import dataclass
from pathlib import Path

from jsonargparse.typing import NonNegativeInt

from kddcup import stages
from kddcup.cli import parse_settings
from kddcup.io.errors import run_script
from kddcup.train.checkpoint import write_checkpoint
from kddcup.train.folder import find_checkpoint

STAGE = stages.find("multilabel")


@dataclass
class ExportSettings:
    """Export.

    Args:
        epoch: of the checkpoint, from 0; by default the one that its config says to use.
        checkpoints_dir: by default ./checkpoints if it has that epoch, else ./ckpt.
        out_path: where the encoder goes.
    """

    epoch: NonNegativeInt | None = None
    checkpoints_dir: str | None = None
    out_path: str = "../user_data/image_encoder_large.pth"


def main() -> None:
    """Export the encoder."""
    settings = parse_settings(ExportSettings, __doc__)
    checkpoint = find_checkpoint(STAGE, settings.checkpoints_dir, settings.epoch)
    model = checkpoint.build(STAGE)
    write_checkpoint(Path(settings.out_path), {"item": model.item}, checkpoint.config)
    print(f"image encoder of {checkpoint.path}: {settings.out_path}")


if __name__ == "__main__":
    run_script(main)
