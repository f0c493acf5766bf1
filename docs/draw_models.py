"""Draw the three models as SVG into this folder: ``python docs/draw_models.py``.

A drawing is boxes on a grid and arrows between them. Boxes are inputs, layers that are frozen or trained with
the shape of what they give, and losses.
"""

from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).resolve().parent
COLUMN, ROW = 196, 84
"""Width and height of a cell of the grid, in pixels."""
WIDTH, HEIGHT = 164, 56
"""Width and height of a box."""
STYLE = """
    .input rect { fill: none; stroke: #6b7280; stroke-dasharray: 4 3 }
    .frozen rect { fill: #eef0f3; stroke: #6b7280 }
    .trained rect { fill: #e8f0fb; stroke: #3b6ea8 }
    .loss rect { fill: #fdf0e3; stroke: #b4691f }
    .arrow { fill: none; stroke: #6b7280; stroke-width: 1.5; marker-end: url(#head) }
    #head path { fill: #6b7280 }
    text { fill: #1f2937; text-anchor: middle }
    .name { font-weight: 600 }
    .note { font-size: 11px; fill: #4b5563 }
    @media (prefers-color-scheme: dark) {
      .input rect { stroke: #9ca3af }
      .frozen rect { fill: #272c34; stroke: #9ca3af }
      .trained rect { fill: #1c2f4a; stroke: #7fb0ea }
      .loss rect { fill: #40301c; stroke: #e2a35c }
      .arrow { stroke: #9ca3af }
      #head path { fill: #9ca3af }
      text { fill: #e5e7eb }
      .note { fill: #b6bdc8 }
    }
  """


class Box(NamedTuple):
    """A box: its kind (a class of :data:`STYLE`), its cell, its name, and a note below the name."""

    kind: str
    column: float
    row: float
    name: str
    note: str

    @property
    def left(self) -> float:
        """Of the box, in pixels."""
        return 8 + self.column * COLUMN

    @property
    def middle(self) -> float:
        """Of the box from above, in pixels."""
        return 8 + self.row * ROW + HEIGHT / 2


class Drawing(NamedTuple):
    """A model: a title, its boxes by a short key, and the arrows from key to key."""

    title: str
    boxes: dict[str, Box]
    arrows: list[tuple[str, str]]


ENCODER = {
    "image": Box("input", 0, 0.5, "image", "n features and boxes"),
    "context": Box("frozen", 1, 0.5, "context", "n × D, by attention"),
    "pool": Box("trained", 2, 0.5, "pool", "weighted over regions"),
}
ENCODER_ARROWS = [("image", "context"), ("context", "pool")]

DRAWINGS = {
    "multilabel": Drawing(
        "Stage 2: label heads tag the image, the caption head begins its caption",
        {
            **ENCODER,
            "context": ENCODER["context"]._replace(kind="trained"),
            "words": Box("input", 2, 2, "query", "T words"),
            "vectors": Box("frozen", 3, 2, "word vectors", "T × E"),
            "labels": Box("trained", 3, 0, "label heads", "4 × E"),
            "caption": Box("trained", 3, 1, "caption head", "E"),
            "tags": Box("trained", 4, 0, "tags", "V: max of heads"),
            "gru": Box("trained", 4, 1, "GRU", "starts from the head"),
            "next": Box("trained", 5, 1, "next word", "V"),
            "tagging": Box("loss", 6, 0, "tagging", "against 1,000 others"),
            "captioning": Box("loss", 6, 1, "captioning", "cross-entropy"),
        },
        [
            *ENCODER_ARROWS,
            ("words", "vectors"),
            ("pool", "labels"),
            ("pool", "caption"),
            ("labels", "tags"),
            ("caption", "gru"),
            ("vectors", "gru"),
            ("gru", "next"),
            ("tags", "tagging"),
            ("next", "captioning"),
        ],
    ),
    "model1": Drawing(
        "Stage 3: each word against the label heads, weighted by its context and the caption head",
        {
            **{key: box._replace(row=1.5) for key, box in ENCODER.items()},
            "words": Box("input", 1, 3, "query", "T words"),
            "vectors": Box("frozen", 2, 3, "word vectors", "T × E"),
            "again": Box("frozen", 3, 0, "word vectors", "T × E"),
            "labels": Box("trained", 3, 1, "label heads", "4 × E"),
            "caption": Box("trained", 3, 2, "caption head", "E"),
            "gru": Box("trained", 3, 3, "GRU, both ways", "T × E/4"),
            "best": Box("trained", 4, 0.5, "word scores", "T: max of heads"),
            "weights": Box("trained", 4, 2.5, "word weights", "T: softmax"),
            "score": Box("trained", 5, 1.5, "score", "Σ weight · score"),
            "loss": Box("loss", 6, 1.5, "ranking", "drawn and hardest"),
        },
        [
            *ENCODER_ARROWS,
            ("words", "vectors"),
            ("pool", "labels"),
            ("pool", "caption"),
            ("vectors", "gru"),
            ("again", "best"),
            ("labels", "best"),
            ("caption", "weights"),
            ("gru", "weights"),
            ("best", "score"),
            ("weights", "score"),
            ("score", "loss"),
        ],
    ),
    "model2": Drawing(
        "Stage 4: a GRU that starts from the caption head reads the query",
        {
            **ENCODER,
            "words": Box("input", 2, 1.5, "query", "T words"),
            "vectors": Box("frozen", 3, 1.5, "word vectors", "T × E"),
            "caption": Box("trained", 3, 0.5, "caption head", "E: four initial states"),
            "gru": Box("trained", 4, 1, "GRU, both ways", "two layers of E"),
            "score": Box("trained", 5, 1, "logit", "of the mean last state"),
            "loss": Box("loss", 6, 1, "matching", "cross-entropy"),
        },
        [
            *ENCODER_ARROWS,
            ("words", "vectors"),
            ("pool", "caption"),
            ("caption", "gru"),
            ("vectors", "gru"),
            ("gru", "score"),
            ("score", "loss"),
        ],
    ),
}


def draw(drawing: Drawing) -> str:
    """The SVG of a drawing."""
    boxes = drawing.boxes.values()
    width = 16 + max(box.column for box in boxes) * COLUMN + WIDTH
    height = 16 + max(box.row for box in boxes) * ROW + HEIGHT
    parts = [draw_arrow(drawing.boxes[start], drawing.boxes[end]) for start, end in drawing.arrows]
    parts += [draw_box(box) for box in boxes]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img" '
        'aria-labelledby="title" font-family="system-ui, sans-serif" font-size="14">\n'
        f'  <title id="title">{drawing.title}</title>\n  <style>{STYLE}</style>\n'
        '  <defs><marker id="head" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
        '<path d="M0 0 8 4 0 8z"/></marker></defs>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def draw_box(box: Box) -> str:
    """A box with its two lines of text."""
    centre = box.left + WIDTH / 2
    return (
        f'  <g class="{box.kind}"><rect x="{box.left:g}" y="{box.middle - HEIGHT / 2:g}" width="{WIDTH}" '
        f'height="{HEIGHT}" rx="8"/>'
        f'<text class="name" x="{centre:g}" y="{box.middle - 4:g}">{box.name}</text>'
        f'<text class="note" x="{centre:g}" y="{box.middle + 15:g}">{box.note}</text></g>'
    )


def draw_arrow(start: Box, end: Box) -> str:
    """A curve from the right side of a box to the left side of another."""
    left, right = start.left + WIDTH, end.left - 2
    bend = (right - left) / 2
    curve = f"C{left + bend:g} {start.middle:g} {right - bend:g} {end.middle:g} {right:g} {end.middle:g}"
    return f'  <path class="arrow" d="M{left:g} {start.middle:g}{curve}"/>'


def main() -> None:
    """Write the drawings."""
    for name, drawing in DRAWINGS.items():
        (FOLDER / f"{name}.svg").write_text(draw(drawing), "utf-8")


if __name__ == "__main__":
    main()
