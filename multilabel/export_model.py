"""Stage 2: export the image encoder of a checkpoint for stages 3 and 4. Example, in this folder:

python export_model.py --epoch 6
"""

from dataclasses import dataclass
from pathlib import Path

from jsonargparse.typing import NonNegativeInt

from kddcup.checkpoint import find_checkpoint, write_checkpoint
from kddcup.config import parse_settings
from kddcup.errors import run_script
from multilabel.model import MultiLabelClassifier


@dataclass
class ExportSettings:
    """Settings of the export.

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
    checkpoint = find_checkpoint("multilabel", settings.checkpoints_dir, settings.epoch)
    vocabulary = checkpoint.vocabulary(None)
    config = checkpoint.config.model
    model = checkpoint.build(lambda: MultiLabelClassifier(config, vocabulary.start, vocabulary.end), "model")
    write_checkpoint(Path(settings.out_path), {"item": model.item}, checkpoint.config)
    print(f"image encoder of {checkpoint.path}: {settings.out_path}")


if __name__ == "__main__":
    run_script(main)
