"""The evaluation page: one HTML file, which needs no server and no network. Example:

    python -m kddcup.report --data_dir data/sample --resources_dir external_resources/sample

Shows NDCG@5 of both models, of the blend and of the baseline where it was run, the words, labels and lengths
of the queries that lose most, and each query's ranked candidates as their regions. The blend's weight is the
best on valid, as in ensemble.py. After 'cd model1; python validation.py --explain' it also shows what each
word adds to a score of model1.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kddcup.cli import parse_settings
from kddcup.io.errors import run_script
from kddcup.io.files import write_text
from kddcup.rank.baseline import RANKERS
from kddcup.rank.blending import best_weight, grid_ndcg, read_pair
from kddcup.rank.explanation import explanation_path, read_explanations
from kddcup.rank.predictions import Predictions, check_answered, read_answers, read_predictions
from kddcup.rank.split import Split
from kddcup.report.evaluation import Evaluation, read_pictures
from kddcup.report.page import page
from kddcup.report.photographs import read_listed_photographs, read_photographs
from kddcup.table.labels import read_labels
from kddcup.table.products import read_products
from kddcup.text.vocabulary import read_user_dictionary


@dataclass
class ReportSettings:
    """Settings of the evaluation page.

    Args:
        data_dir: folder of the tables and answers.
        resources_dir: folder of the predictions of model1 and model2.
        split: the table whose queries are shown; it needs answers.
        images: folder of photographs, PRODUCT_ID.jpg each; products without one are drawn as regions alone.
            By default those that data_dir lists in pictures.csv, as tables of one's own pictures do.
        out: the page; by default report.html in resources_dir.
    """

    data_dir: str = "data"
    resources_dir: str = "external_resources"
    split: Literal["valid", "testA", "testB"] = "valid"
    images: str | None = None
    out: str | None = None


def read_judged(
    folder: Path, split: Split
) -> tuple[tuple[Predictions, Predictions], dict[str, list[int]], Path]:
    """Both models' predictions for a split, its answers, and the file of model1's predictions."""
    name = "valid" if split.name == "valid" else "test"
    pair, answers = read_pair(folder, name), read_answers(split.answers)
    path = folder / f"{name}_pred_model1.json"
    check_answered(pair[0], answers, (path, split.answers))
    return pair, answers, path


def read_baselines(folder: Path, split: Split, answers: dict[str, list[int]]) -> dict[str, Predictions]:
    """Read the predictions of ``python -m kddcup.baseline`` for a split, where there are any."""
    name = "valid" if split.name == "valid" else "test"
    found = {}
    for ranker in RANKERS:
        path = folder / f"{name}_pred_{ranker}.json"
        if path.is_file():
            found[ranker] = read_predictions(path, "python -m kddcup.baseline")
            check_answered(found[ranker], answers, (path, split.answers))
    return found


def main() -> None:
    """Write the page."""
    settings = parse_settings(ReportSettings, __doc__)
    folder, data = Path(settings.resources_dir), Path(settings.data_dir)
    split = Split(data, settings.split)
    valid, valid_answers, _ = read_judged(folder, Split(data, "valid"))
    weight, _ = best_weight(*valid, valid_answers)
    pair, answers, path = read_judged(folder, split)
    words = explanation_path(path)
    evaluation = Evaluation(
        pair,
        answers,
        weight,
        grid_ndcg(*pair, answers),
        read_pictures(split.table, path, pair[0], answers),
        read_explanations(words, pair[0]) if words.is_file() else {},
        read_baselines(folder, split, answers),
        read_user_dictionary(data),
    )
    products = {product for query in answers for product, _ in pair[0][query]}
    if settings.images:
        photographs = read_photographs(Path(settings.images), products)
    else:
        photographs = read_listed_photographs(data, products)
    out = Path(settings.out) if settings.out else folder / "report.html"
    write_text(out, page(split.name, evaluation, read_labels(data), photographs, read_products(data)))
    print(f"{len(answers)} queries, {out.stat().st_size / 1e6:.1f} MB: {out}")


if __name__ == "__main__":
    run_script(main)
