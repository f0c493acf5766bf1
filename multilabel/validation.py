"""Stage 2: how well the tags rank the valid table, and what the encoder sees in a few of its images.

Prints NDCG@5, and for each of a few images its 15 best tags and its captions. Example, in this folder:

    python validation.py --epoch 6
"""

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from jsonargparse.typing import NonNegativeInt
from torch.nn import functional as F

from kddcup.checkpoint import find_checkpoint
from kddcup.config import ValidationSettings, parse_settings
from kddcup.errors import run_script
from kddcup.metrics import with_interval
from kddcup.regions import RegionBatch, scale_boxes
from kddcup.scoring import Split, score_table
from kddcup.text import Vocabulary
from kddcup.training import pick_device
from kddcup.tsv import Row, Table
from multilabel.model import MultiLabelClassifier

TAGS = 15


@dataclass
class TagSettings(ValidationSettings):
    """Settings of validation in stage 2.

    Args:
        images: how many of the valid table to show tags and captions of.
    """

    images: NonNegativeInt = 3


def main() -> None:
    """Rank valid by tags and show a few images."""
    settings = parse_settings(TagSettings, __doc__)
    checkpoint = find_checkpoint("multilabel", settings.checkpoints_dir, settings.epoch)
    device = pick_device(settings.devices)
    config, vocabulary = checkpoint.config.model, checkpoint.vocabulary(settings.tokenizer)
    model = MultiLabelClassifier(config, vocabulary.start, vocabulary.end)
    checkpoint.load_into({"model": model})
    model.to(device).eval()
    valid = Split(Path(settings.data_dir), "valid")
    predictions = score_table(valid.table, model, vocabulary.encode_known, config.region_dim, device)
    per_query = valid.ndcg(predictions)
    for row in islice(Table(valid.table).rows("show"), settings.images):
        show(row, model, vocabulary, device)
    print(f"multilabel on valid: NDCG@5 {with_interval(per_query)}")


@torch.inference_mode()
def show(row: Row, model: MultiLabelClassifier, vocabulary: Vocabulary, device: torch.device) -> None:
    """Print the tags and captions of a row's image."""
    image = RegionBatch.from_images([(row.features, scale_boxes(row.boxes, row.image_h, row.image_w))])
    heads = model.encode_images(image.to(device))
    scores, words = F.logsigmoid(model.label_logits(heads)[0, 1:]).exp().topk(min(TAGS, len(vocabulary) - 1))
    tags = (f"{vocabulary.tokens[word + 1]} {score:.2f}" for word, score in zip(words, scores, strict=True))
    print(f"product {row.product_id}, found under '{row.query}'")
    print(f"  tags: {', '.join(tags)}")
    for score, caption in model.read_captions(heads[0, 0]):
        print(f"  caption {score:6.2f}: {vocabulary.decode(caption)}")


if __name__ == "__main__":
    run_script(main)
