"""The evaluation page: one HTML file, which needs no server and no network. Example:

    python -m kddcup.report --data_dir data/sample --resources_dir external_resources/sample

Shows NDCG@5 of each model, of the blend and of the baseline where it was run, the words, labels and lengths
of the queries that lose most, and each query's ranked candidates as their regions. The blend is the one that
ensemble.py wrote into blend.json. After 'cd model1; python validation.py --explain' it also shows what each
word adds to a score of model1.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kddcup.cli import parse_settings
from kddcup.io.errors import UserError, run_script
from kddcup.io.files import write_text
from kddcup.rank.blend import BLEND, MADE_BY, Blend
from kddcup.rank.curve import TOLERANCE
from kddcup.rank.explanation import Explanation, explanation_path, read_explanations
from kddcup.rank.predictions import Predictions, check_answered, read_predictions
from kddcup.rank.split import Split
from kddcup.report.evaluation import Evaluation, read_pictures
from kddcup.report.page import render_page
from kddcup.report.photographs import read_listed_photographs, read_photographs
from kddcup.stages import BASELINES, predictions_path
from kddcup.table.labels import read_labels
from kddcup.table.products import read_products
from kddcup.text.vocabulary import read_user_dictionary


@dataclass
class ReportSettings:
    """Settings of the evaluation page.

    Args:
        data_dir: folder of the tables and answers.
        resources_dir: folder of blend.json.
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


def find_explanations(
    blend: Blend, paths: list[Path], models: list[Predictions]
) -> tuple[dict[str, Explanation], str]:
    """Read what a model's scores are made of, and name the model: the first that has written it, if any."""
    for model, path, predictions in zip(blend.models, paths, models, strict=True):
        words = explanation_path(path)
        if words.is_file():
            return read_explanations(words, predictions), model.name
    return {}, ""


def check_figure(evaluation: Evaluation, split: str, folder: Path) -> None:
    """Check that the blend does as well as it did when it was written.

    Raises:
        UserError: its predictions or the answers have changed since.
    """
    written, figure = evaluation.blend.figures.get(split), float(evaluation.ndcg[-1].mean())
    if written and abs(written.blend - figure) > TOLERANCE:
        raise UserError(
            f"{folder / BLEND} says NDCG@5 {written.blend:.6f} on {split}, and the predictions give "
            f"{figure:.6f}: they have changed since; run '{MADE_BY}' again"
        )


def read_baselines(
    folder: Path, blended: list[Path], split: Split, answers: dict[str, list[int]]
) -> dict[str, Predictions]:
    """Read the predictions of ``python -m kddcup.baseline`` for a split, where they are not blended."""
    table = "valid" if split.name == "valid" else "test"
    baselines = {}
    for ranker in BASELINES:
        path = predictions_path(folder, table, ranker)
        if path.is_file() and path not in blended:
            baselines[ranker] = read_predictions(path, "python -m kddcup.baseline")
            check_answered(baselines[ranker], answers, (path, split.answers))
    return baselines


def main() -> None:
    """Write the page."""
    settings = parse_settings(ReportSettings, __doc__)
    folder, data = Path(settings.resources_dir), Path(settings.data_dir)
    blend, split = Blend.read(folder), Split(data, settings.split)
    if split.name not in ("valid", blend.split):
        raise UserError(
            f"{folder / BLEND} is of valid and {blend.split}, not of {split.name}: "
            f"run '{MADE_BY} --split {split.name}'"
        )
    paths, models = blend.paths(split.name), blend.read_models(split.name)
    answers = split.read_answers(models[0], paths[0])
    explanations, explained = find_explanations(blend, paths, models)
    evaluation = Evaluation(
        blend,
        models,
        answers,
        read_pictures(split.table, paths[0], models[0], answers),
        explanations,
        explained,
        read_baselines(folder, paths, split, answers),
        read_user_dictionary(data),
    )
    check_figure(evaluation, split.name, folder)
    products = {product for query in answers for product, _ in models[0][query]}
    if settings.images:
        photographs = read_photographs(Path(settings.images), products)
    else:
        photographs = read_listed_photographs(data, products)
    out = Path(settings.out) if settings.out else folder / "report.html"
    write_text(out, render_page(split.name, evaluation, read_labels(data), photographs, read_products(data)))
    print(f"{len(answers)} queries, {out.stat().st_size / 1e6:.1f} MB: {out}")


if __name__ == "__main__":
    run_script(main)
