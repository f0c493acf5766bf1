"""Stage 2: how well the tags rank the valid table, and what the encoder sees in a few of its images.

Prints NDCG@5, and for each of a few images its 15 best tags and its captions; or, with --show, the tags and
captions of given products alone. Examples, in this folder:

    python validation.py --epoch 6
    python validation.py --show 103000007 103000042 --split testB

The number after a tag is σ(logit), from 0 to 1; that of a caption is its log probability.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from jsonargparse.typing import NonNegativeInt
from tqdm import tqdm

from kddcup import stages
from kddcup.cli import parse_settings
from kddcup.config import ValidationSettings
from kddcup.io.errors import UserError, run_script
from kddcup.rank.metrics import with_interval
from kddcup.rank.scoring import check_dimension, encode_candidates, score_encoded
from kddcup.rank.split import Split
from kddcup.table.table import Table
from kddcup.train.folder import find_checkpoint
from kddcup.train.processes import pick_device
from multilabel.description import describe, find_first_products, find_products

STAGE = stages.find("multilabel")


@dataclass
class TagSettings(ValidationSettings):
    """Tags and captions.

    Args:
        images: how many products of the valid table to show tags and captions of, where --show names none.
        show: ids of products to show tags and captions of, instead of scoring the valid table.
        split: the table that has the products of --show.
    """

    images: NonNegativeInt = 3
    show: list[int] = field(default_factory=list)
    split: Literal["train", "valid", "testA", "testB"] = "valid"


def main() -> None:
    """Rank valid by tags and show a few images."""
    settings = parse_settings(TagSettings, __doc__)
    if settings.split != "valid" and not settings.show:
        raise UserError(f"--split {settings.split} is for --show: name products with it")
    checkpoint = find_checkpoint(STAGE, settings.checkpoints_dir, settings.epoch)
    checkpoint.check_extractor(settings.data_dir)
    device = pick_device(settings.devices)
    dim, vocabulary = checkpoint.config.model.region_dim, checkpoint.read_vocabulary(settings.tokenizer)
    model = checkpoint.build(STAGE).to(device)
    split = Split(Path(settings.data_dir), settings.split if settings.show else "valid")
    table = Table(split.table)
    rows = (
        find_products(table, settings.show) if settings.show else find_first_products(table, settings.images)
    )
    for row in rows:
        check_dimension(split.table, row.features.shape[1], dim)
    for row in tqdm(rows, desc="show", disable=None, leave=False):
        tqdm.write(describe(row, model, vocabulary, device))
    if not settings.show:
        predictions = score_encoded(encode_candidates(split.table, model, vocabulary, dim, device))
        print(f"multilabel on valid: NDCG@5 {with_interval(split.ndcg(predictions))}")


if __name__ == "__main__":
    run_script(main)
