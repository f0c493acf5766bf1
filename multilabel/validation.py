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

from kddcup.checkpoint import find_checkpoint
from kddcup.config import ValidationSettings, parse_settings
from kddcup.errors import UserError, run_script
from kddcup.metrics import with_interval
from kddcup.processes import pick_device
from kddcup.scoring import Split, check_dimension, score_table
from kddcup.tsv import Table
from multilabel.description import describe, find_products, first_products
from multilabel.model import MultiLabelClassifier


@dataclass
class TagSettings(ValidationSettings):
    """Settings of validation in stage 2.

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
    checkpoint = find_checkpoint("multilabel", settings.checkpoints_dir, settings.epoch)
    device = pick_device(settings.devices)
    config, vocabulary = checkpoint.config.model, checkpoint.vocabulary(settings.tokenizer)
    model = checkpoint.build(
        lambda: MultiLabelClassifier(config, vocabulary.start, vocabulary.end), "model"
    ).to(device)
    split = Split(Path(settings.data_dir), settings.split if settings.show else "valid")
    table = Table(split.table)
    rows = find_products(table, settings.show) if settings.show else first_products(table, settings.images)
    for row in rows:
        check_dimension(split.table, row.features.shape[1], config.region_dim)
    for row in tqdm(rows, desc="show", disable=None, leave=False):
        tqdm.write(describe(row, model, vocabulary, device))
    if not settings.show:
        predictions = score_table(split.table, model, vocabulary.encode_known, config.region_dim, device)
        print(f"multilabel on valid: NDCG@5 {with_interval(split.ndcg(predictions))}")


if __name__ == "__main__":
    run_script(main)
