"""Stage 2: score valid and test by tags, and show what the encoder sees in a few images.

Prints NDCG@5 and writes the predictions, and prints the 15 best tags and the captions of a few images of
valid; or, with --show, the tags and captions of given products alone. Examples, in this folder:

    python validation.py --epoch 6
    python validation.py --show 103000007 103000042 --split testB

The number after a tag is σ(logit), from 0 to 1; that of a caption is its log probability.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from jsonargparse.typing import NonNegativeInt
from tqdm import tqdm

from kddcup import stages
from kddcup.cli import parse_settings
from kddcup.config import PredictSettings
from kddcup.io.errors import UserError, run_script
from kddcup.rank.scoring import check_dimension
from kddcup.rank.split import Split
from kddcup.table.table import Table
from kddcup.train.validation import TrainedModel
from multilabel.description import describe, find_first_products, find_products

STAGE = stages.find("multilabel")


@dataclass
class TagSettings(PredictSettings):
    """Tags and captions.

    Args:
        images: how many products of the valid table to show tags and captions of, where --show names none.
        show: ids of products to show tags and captions of, instead of scoring tables; of the table --split,
            which may then be train or valid too, and by default is valid.
    """

    images: NonNegativeInt = 3
    show: list[int] = field(default_factory=list)
    split: Literal["train", "valid", "testA", "testB"] | None = None


def main() -> None:
    """Rank the tables by tags and show a few images."""
    settings = parse_settings(TagSettings, __doc__)
    if settings.split in ("train", "valid") and not settings.show:
        raise UserError(f"--split {settings.split} is for --show: name products with it")
    trained = TrainedModel.load(STAGE, settings)
    table = Table(Split(Path(settings.data_dir), (settings.show and settings.split) or "valid").table)
    if settings.show:
        rows = find_products(table, settings.show)
    else:
        trained.predict(replace(settings, split=settings.split or PredictSettings.split))
        rows = find_first_products(table, settings.images)
    for row in rows:
        check_dimension(table.path, row.features.shape[1], trained.region_dim)
    for row in tqdm(rows, desc="show", disable=None, leave=False):
        tqdm.write(describe(row, trained.model, trained.vocabulary, trained.device))


if __name__ == "__main__":
    run_script(main)
