"""The names of class labels."""

from pathlib import Path

from kddcup.io.errors import UserError

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
MAX_DIGITS = 18
"""The most digits of a label, which is below 2^63."""


def read_labels(data_dir: Path) -> dict[int, str]:
    """Read the names of class labels from ``DATA/multimodal_labels.txt``; none where there is no such file.

    Raises:
        UserError: a line is not a number, a tab and a name.
    """
    path = data_dir / "multimodal_labels.txt"
    if not path.is_file():
        return {}
    labels = {}
    lines = path.read_bytes().decode("utf-8-sig", errors="replace").rstrip().splitlines()
    for number, line in enumerate(lines[1:], 2):
        label, _, name = line.partition("\t")
        if not label.isdecimal() or len(label) > MAX_DIGITS or not name:
            raise UserError(f"{path}, line {number}: expected a number, a tab and a name: get the file again")
        labels[int(label)] = name
    return labels
