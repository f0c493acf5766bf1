"""What the model sees in an image: tags and captions, as text."""

from collections.abc import Iterable

import torch
from torch.nn import functional as F

from kddcup.data.batch import RegionBatch, scale_boxes
from kddcup.io.errors import UserError
from kddcup.table.rows import Row
from kddcup.table.table import Table
from kddcup.text.vocabulary import Vocabulary
from multilabel.model import MultiLabelClassifier

TAGS = 15


def find_first_products(table: Table, count: int) -> list[Row]:
    """The first rows of the first ``count`` products of a table, or of all where it has fewer."""
    found: dict[int, Row] = {}
    for row in table.rows(f"find {table.path.name}") if count else ():
        found.setdefault(row.product_id, row)
        if len(found) == count:
            break
    return list(found.values())


def find_products(table: Table, products: Iterable[int]) -> list[Row]:
    """The first row of each product, in the order asked for; the table is read no further than the last one.

    Raises:
        UserError: the table lacks a product.
    """
    wanted = list(dict.fromkeys(products))
    found: dict[int, Row] = {}
    missing = set(wanted)
    for row in table.rows(f"find {table.path.name}"):
        if row.product_id in missing:
            found[row.product_id] = row
            missing.remove(row.product_id)
            if not missing:
                return [found[product] for product in wanted]
    names = ", ".join(str(product) for product in wanted if product in missing)
    raise UserError(
        f"{table.path} has no product {names}: see its column product_id, or name another --split"
    )


@torch.inference_mode()
def describe(row: Row, model: MultiLabelClassifier, vocabulary: Vocabulary, device: torch.device) -> str:
    """The best tags of a row's image with σ(logit), and its captions with their log probability.

    Args:
        row: with the image.
        model: in eval mode, on ``device``.
        vocabulary: of the model.
        device: where to compute.

    Returns:
        a line for the product and the row's query, one for the tags, one for each caption.
    """
    image = RegionBatch.from_images([(row.features, scale_boxes(row.boxes, row.image_h, row.image_w))])
    heads = model.encode_images(image.to(device))
    scores, words = F.logsigmoid(model.tag(heads)[0, 1:]).exp().topk(min(TAGS, len(vocabulary) - 1))
    tags = (
        f"{vocabulary.tokens[word + 1]} {score:.2f}"
        for word, score in zip(words.tolist(), scores.tolist(), strict=True)
    )
    captions = (
        f"  caption {score:6.2f}: {vocabulary.decode(words)}"
        for score, words in model.generate_captions(heads[0, 0])
    )
    return "\n".join(
        [
            f"product {row.product_id}, found under '{row.query}'",
            f"  tags: {', '.join(tags)}",
            *captions,
        ]
    )
