"""The names of class labels."""

import re
from pathlib import Path

from kddcup.io.errors import UserError
from kddcup.table.rows import INT64

COMPETITION_LABELS = (
    "top clothes (coat, jacket, shirt, etc.)",
    "skirt & dress",
    "bottom clothes (trousers, pants, etc.)",
    "luggage, leather goods",
    "shoes",
    "accessories (jewelry, clothing accessories, belts, hats, scarves, etc.)",
    "snacks, nuts, liquor and tea",
    "makeup, perfume, beauty tools and essential oils",
    "bottle drink",
    "furniture",
    "stationery",
    "household electrical appliances",
    "home decoration",
    "household fabric",
    "kitchenware",
    "home / personal cleaning tools",
    "storage supplies",
    "motorcycle, motorcycle accessories, vehicles, bicycle and riding equipment",
    "outdoor product",
    "lighting",
    "toys",
    "underwear",
    "digital supplies",
    "bed linens",
    "baby products",
    "personal care",
    "sporting goods",
    "clothes (accessories, baby clothing, etc.)",
    "others",
    "human face",
    "arm",
    "hair",
    "hand",
)
"""The names of the competition's 33 labels, as released; a label is a place in this list."""
_LINE = re.compile(r"(-?[0-9]{1,19})\t(.+)")


def read_labels(data_dir: Path) -> dict[int, str]:
    """Read the names of class labels from ``DATA/multimodal_labels.txt``; none where there is no such file.

    Raises:
        UserError: a line is not a number of 64 bits, a tab and a name.
    """
    path = data_dir / "multimodal_labels.txt"
    if not path.is_file():
        return {}
    labels = {}
    lines = path.read_bytes().decode("utf-8-sig", errors="replace").rstrip().splitlines()
    for number, line in enumerate(lines[1:], 2):
        match = _LINE.fullmatch(line)
        if not match or not INT64.min <= int(match[1]) <= INT64.max:
            raise UserError(
                f"{path}, line {number}: expected a number from -2^63 to 2^63 - 1, a tab and a name: "
                "get the file again"
            )
        labels[int(match[1])] = match[2]
    return labels
