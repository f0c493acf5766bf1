"""The evaluation as one HTML file: what is read at once as HTML, the queries as data that a script draws."""

import base64
import hashlib
import math
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from kddcup.rank.explanation import WordScore
from kddcup.rank.metrics import METRICS, NDCG, K, bootstrap_interval
from kddcup.rank.weights import GRID
from kddcup.report.evaluation import FEWEST_QUERIES, Evaluation, Picture
from kddcup.stages import BASELINES
from kddcup.table.products import ListedProduct, find_link

COLOURS = 33
"""Of regions, by label; more labels begin again."""


def render_page(
    split: str,
    evaluation: Evaluation,
    labels: Mapping[int, str],
    photographs: Mapping[int, str],
    products: Mapping[int, ListedProduct],
) -> str:
    """Write the page as one text.

    Args:
        split: name of the table.
        evaluation: what it shows.
        labels: names of class labels.
        photographs: base64 of WebP by product id.
        products: how the shop knows them, by product id; those that are not there are shown by their id.
    """
    # Everything that is put into the template is escaped, unless it is Markup.
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    style, script = (Markup(_text(name)) for name in ("page.css", "page.js"))
    return environment.from_string(_text("page.html")).render(
        style=style,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        split=split,
        models=[_summarize(name, evaluation.metrics[name]) for name in evaluation.names],
        baselines=[_summarize(name, evaluation.metrics[name]) for name in evaluation.baselines],
        plain=[name for name in evaluation.metrics if name in BASELINES],
        metrics=list(METRICS),
        random=evaluation.random,
        by_scores=evaluation.ndcg_by_scores if evaluation.blend.listed_once else None,
        blend=evaluation.blend,
        cross_validated=evaluation.blend.figures["valid"].cross_validated if split == "valid" else None,
        curve=_curve(evaluation) if len(evaluation.models) == 2 else None,
        groups=evaluation.groups(),
        fewest=FEWEST_QUERIES,
        labels=labels,
        explained=evaluation.explained,
        queries=len(evaluation.answers),
        candidates=sum(map(len, evaluation.scores[-1].values())),
        data=_data(evaluation, labels, photographs, products),
        photographs=photographs,
    )


def _text(name: str) -> str:
    return resources.files("kddcup.report").joinpath(name).read_text("utf-8")


def _summarize(name: str, metrics: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Give mean, and low and high end of its interval, of each metric; those of NDCG@5 by their own names."""
    figures = {metric: (values.mean(), *bootstrap_interval(values)) for metric, values in metrics.items()}
    ndcg, low, high = figures[NDCG]
    return {"name": name, "ndcg": ndcg, "low": low, "high": high, "figures": figures}


def _curve(evaluation: Evaluation) -> dict[str, Any]:
    """Draw the curve in a square of 100 by 100 from its lowest to its highest point, and the blend in it."""
    figures, chosen = evaluation.curve, evaluation.ndcg_by_scores
    low, high = min(figures.min(), chosen), max(figures.max(), chosen)
    span = max(high - low, np.finfo(float).tiny)
    points = zip(100 * GRID[:, 0], 100 * (high - figures) / span, strict=True)
    return {
        "low": low,
        "high": high,
        "points": " ".join(f"{x:.2f},{y:.2f}" for x, y in points),
        "x": 100 * evaluation.blend.weights[0],
        "y": 100 * (high - chosen) / span,
        "ndcg": chosen,
    }


def _data(
    evaluation: Evaluation,
    labels: Mapping[int, str],
    photographs: Mapping[int, str],
    products: Mapping[int, ListedProduct],
) -> dict[str, Any]:
    """Collect what the script draws from; lists instead of objects where there are thousands."""
    images = evaluation.pictures.images
    shown = {product for _, product in evaluation.pictures.places}
    present = sorted({label for image in images for label in image.labels.tolist()})
    places = {label: place for place, label in enumerate(present)}
    return {
        "best": K,
        "models": evaluation.names,
        "explained": evaluation.explained,
        "labels": [[labels.get(label, f"label {label}"), label % COLOURS] for label in present],
        "images": [_image(image, places) for image in images],
        "photographs": [str(product) for product in photographs],
        "products": {
            str(product): _product(products[product]) for product in sorted(shown & products.keys())
        },
        "queries": [_query(evaluation, i, query) for i, query in enumerate(evaluation.answers)],
    }


def _product(product: ListedProduct) -> list[str]:
    """Make [the shop's id, title, link]."""
    return [product.shop_id, product.title, find_link(product.url)]


def _image(image: Picture, places: Mapping[int, int]) -> list:
    """Make [height, width, [top, left, bottom, right, place of the label among the present ones], …]."""
    labels = [places[label] for label in image.labels.tolist()]
    boxes = np.column_stack([image.boxes, np.array(labels, np.int64)]).tolist()
    return [image.height, image.width, *boxes]


def _query(evaluation: Evaluation, i: int, query: str) -> dict[str, Any]:
    """Describe a query with its candidates, best first in the blend.

    A candidate is [product, image, whether it is an answer, its scores and then its ranks in each of the
    models and the blend]. Products and labels are text, since a number of JavaScript has 53 bits.
    """
    ranked = [scores[query] for scores in evaluation.scores]
    scores = [dict(candidates) for candidates in ranked]
    ranks = [{product: rank for rank, (product, _) in enumerate(candidates, 1)} for candidates in ranked]
    wanted, places = set(evaluation.answers[query]), evaluation.pictures.places
    products = [product for product, _ in ranked[-1]]
    content = {
        "id": query,
        "text": evaluation.pictures.texts[query],
        "ndcg": [_round(ndcg[i]) for ndcg in evaluation.ndcg],
        "disagreement": _round(evaluation.disagreement(query)),
        "answers": len(wanted),
        **{kind: [str(trait) for trait in sorted(traits[i])] for kind, traits in evaluation.traits.items()},
        "candidates": [
            [
                str(product),
                places[query, product],
                int(product in wanted),
                *(_round(by_product[product]) for by_product in scores),
                *(by_product[product] for by_product in ranks),
            ]
            for product in products
        ],
    }
    if query in evaluation.explanations:
        explanation = evaluation.explanations[query]
        content["words"] = explanation.words
        content["parts"] = [list(_parts(explanation.products[product])) for product in products]
    return content


def _parts(words: Iterable[WordScore]) -> Iterable[list]:
    """Make [weight, score, head from 1] of each word."""
    for word in words:
        yield [_round(word.weight), _round(word.score), word.head + 1]


def _round(value: float) -> float:
    """Round to five digits, which are more than the page shows."""
    rounded = float(f"{value:.5g}")
    return rounded if math.isfinite(rounded) else value  # the largest of all numbers rounds up
