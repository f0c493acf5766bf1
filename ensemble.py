"""Stage 5: blend the models and write the submission.

The weight is the first best of 100 on the valid table, as published, unless told otherwise. Examples:

    python ensemble.py --data_dir data/sample --resources_dir external_resources/sample
    python ensemble.py --search exact --normalize zscore
    python ensemble.py --models mine/valid_a.json mine/valid_b.json mine/valid_c.json

The last reads mine/test_a.json, mine/test_b.json and mine/test_c.json too.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from kddcup.cli import parse_settings
from kddcup.io.errors import UserError, run_script
from kddcup.rank.blending import Normalization, contenders, normalize, pair_sources, read_models, weighted_sum
from kddcup.rank.metrics import ndcg_per_query, random_ndcg, with_interval
from kddcup.rank.predictions import Predictions, check_answered, ranking, read_answers, write_submission
from kddcup.rank.split import Split
from kddcup.rank.weight_search import WEIGHTS, cross_validated, search_exact, search_grid


@dataclass
class EnsembleSettings:
    """Settings of stage 5.

    Args:
        data_dir: folder of the tables; their answers are read.
        resources_dir: folder of the predictions of model1 and model2; submission.csv is written there.
        split: the test table; its own answers, where it has some, are only reported on.
        search: how the weights are found on valid. grid tries the published 100 weights of two models. exact
            finds the best of all weights of two, and for more the best that a coordinate search from several
            starts comes to. By default grid, and exact with models. Beside the fitted NDCG@5 stands the
            cross-validated one: the queries are dealt into five folds with a fixed seed, each fold is judged
            at the weights fitted on the other four, and the mean is over all queries.
        models: the valid predictions of any number of models, instead of model1's and model2's.
        test_models: their test predictions, in the same order; by default the files beside them whose names
            have test_ in place of a leading valid_.
        normalize: what is done to the scores of each query, valid and test alike, before they are blended.
            minmax takes them to 0 … 1, zscore to mean 0 and variance 1, rank to equal steps from 0 for the
            lowest to 1 for the highest.
    """

    data_dir: str = "data"
    resources_dir: str = "external_resources"
    split: Literal["testA", "testB"] = "testB"
    search: Literal["grid", "exact"] | None = None
    models: list[str] = field(default_factory=list)
    test_models: list[str] = field(default_factory=list)
    normalize: Normalization = "none"


def sources(settings: EnsembleSettings) -> tuple[list[tuple[Path, str]], list[tuple[Path, str]]]:
    """Each model's predictions of valid and those of test, as files and the commands that make them.

    Raises:
        UserError: it is not clear which test predictions go with those of valid.
    """
    if not settings.models:
        if settings.test_models:
            raise UserError("--test_models needs --models, the valid predictions of the same models")
        folder = Path(settings.resources_dir)
        return pair_sources(folder, "valid"), pair_sources(folder, "test")
    valid, test = [Path(path) for path in settings.models], [Path(path) for path in settings.test_models]
    if not test:
        unclear = [path for path in valid if not path.name.startswith("valid_")]
        if unclear:
            raise UserError(
                f"{unclear[0]} is not named valid_…: name the test predictions with --test_models"
            )
        test = [path.with_name("test_" + path.name.removeprefix("valid_")) for path in valid]
    if len(test) != len(valid):
        raise UserError(
            f"--models names {len(valid)} files and --test_models {len(test)}: "
            "give one of each for a model, in the same order"
        )
    made_by = "python validation.py"
    return [(path, made_by) for path in valid], [(path, made_by) for path in test]


def read_normalized(files: list[tuple[Path, str]], how: Normalization) -> list[Predictions]:
    """The models' predictions, the scores of each query normalized."""
    return [normalize(predictions, how) for predictions in read_models(files)]


def judged(split: Split, predictions: Predictions, source: Path) -> dict[str, list[int]]:
    """The answers of a split, for whose queries there are predictions, read from the file ``source``."""
    answers = read_answers(split.answers)
    check_answered(predictions, answers, (source, split.answers))
    return answers


def print_table(rows: list[tuple[str, str]]) -> None:
    """Print names and figures in two columns."""
    width = max(len(name) for name, _ in rows)
    for name, figure in rows:
        print(f"  {name:<{width}} {figure}")


def show_weights(names: list[str], weights: list[float], search: str) -> None:
    """Print the weight of each model, that of a grid with its index."""
    if search == "grid":
        index = WEIGHTS.tolist().index(weights[0])
        print(f"best weight of {names[0]} on valid: {weights[0]:.6f} (index {index})")
    else:
        print("best weights on valid")
        print_table([(name, f"{weight:.6f}") for name, weight in zip(names, weights, strict=True)])


def report(
    split: str,
    names: list[str],
    models: list[Predictions],
    blended: Predictions,
    answers: dict[str, list[int]],
    validated: np.ndarray | None = None,
) -> None:
    """Print NDCG@5 of a random order, of each model and of the blend, with 95 % bootstrap intervals.

    ``validated`` is that of the blend per query, cross-validated.
    """
    print(f"NDCG@5 on {split} [95 % bootstrap interval over queries]")
    rows = [("random order", f"{random_ndcg(ranking(models[0]), answers):.6f}")]
    for name, predictions in zip([*names, "blend"], [*models, blended], strict=True):
        rows.append((name, with_interval(ndcg_per_query(ranking(predictions), answers))))
    if validated is not None:
        rows.append(("cross-validated", with_interval(validated)))
    print_table(rows)


def main() -> None:
    """Find the weights, report, write the submission."""
    settings = parse_settings(EnsembleSettings, __doc__)
    folder, data = Path(settings.resources_dir), Path(settings.data_dir)
    names = settings.models or ["model1", "model2"]
    search = settings.search or ("exact" if settings.models else "grid")
    if search == "grid" and len(names) != 2:
        raise UserError(
            f"--search grid blends two models and --models names {len(names)}: take --search exact"
        )
    find = {"grid": search_grid, "exact": search_exact}[search]

    valid_files, test_files = sources(settings)
    valid = read_normalized(valid_files, settings.normalize)
    test = read_normalized(test_files, settings.normalize)
    answers = judged(Split(data, "valid"), valid[0], valid_files[0][0])

    candidates = contenders(valid, answers)
    weights = find(candidates).tolist()
    show_weights(names, weights, search)
    submission = folder / "submission.csv"
    blended = weighted_sum(test, weights)
    write_submission(submission, blended)

    validated = cross_validated(find, candidates) if len(answers) > 1 else None
    report("valid", names, valid, weighted_sum(valid, weights), answers, validated)
    split = Split(data, settings.split)
    if split.answers.is_file():
        report(split.name, names, test, blended, judged(split, test[0], test_files[0][0]))
    print(f"submission: {submission}")


if __name__ == "__main__":
    run_script(main)
