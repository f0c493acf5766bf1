"""Stage 5: blend the models and write the submission.

The weights are found on the valid table. At full size model1 and model2 are blended as published: the best of
100 weights of their raw scores. At small size stage 2's tags and the baseline's logistic regression join
them, and the scores become z-scores within each query. Examples:

    python ensemble.py --data_dir data/sample --resources_dir external_resources/sample
    python ensemble.py --search exact --normalize zscore
    python ensemble.py --models model1 multilabel mine/valid_a.json

The last reads mine/test_a.json, too.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from kddcup import stages
from kddcup.cli import parse_settings
from kddcup.data.corpus import find_size
from kddcup.io.errors import UserError, run_script
from kddcup.rank.blend import Blend, BlendedModel, Figures, Search
from kddcup.rank.fusion import Normalization, normalize
from kddcup.rank.listing import ListedOnce
from kddcup.rank.metrics import describe_others, ndcg_per_query, random_ndcg, with_interval
from kddcup.rank.predictions import (
    Predictions,
    ranking,
    read_models,
    write_submission,
)
from kddcup.rank.split import Split
from kddcup.rank.weights import (
    GRID,
    CandidateScores,
    cross_validate,
    search_bagged,
    search_exact,
    search_grid,
    search_local,
)
from kddcup.table.products import read_products

LISTED_ONCE = "listed once first"
"""The name of the blend's row where the lists of candidates decide before the scores."""
SEARCHES = {"grid": search_grid, "exact": search_exact, "local": search_local, "bagged": search_bagged}
TWO_MODELS = ("grid", "exact")
"""The searches that are for two models."""


@dataclass
class EnsembleSettings:
    """Settings of stage 5.

    Args:
        data_dir: folder of the tables; their answers are read.
        resources_dir: folder of the predictions; submission.csv and blend.json are written there.
        split: the test table; where it has answers, figures on it are printed too.
        search: how the weights are found on valid. grid tries the published 100 weights of two models. exact
            finds the best of all weights of two models. local finds good weights of any number of models by
            exact searches along lines; better ones may exist. bagged takes the mean of the best weights over
            resamples of valid's queries, which fits valid less and other queries more. By default bagged at
            small size; at full size grid for the two matchers, exact for two that are named, and local for
            another number. Beside the fitted NDCG@5 stands the cross-validated one: the queries are dealt
            into five folds with a fixed seed, and each fold is scored with the weights fitted on the others.
        models: what is blended. A stage (multilabel, model1, model2) or a baseline (logistic, neighbours) is
            named, and read from resources_dir; of anything else the file of valid predictions is. By default
            the matchers at full size, and all stages and logistic at small size; the size is the one that
            stage 1 was given, and full where it has not run.
        test_models: files of their test predictions, in the same order; by default the files beside those of
            valid whose names have test_ in place of a leading valid_.
        normalize: what is done to the scores of each query, valid and test alike, before they are blended.
            minmax takes them to 0 … 1, zscore to mean 0 and variance 1, rank to equal steps from 0 for the
            lowest to 1 for the highest. By default none at full size, and zscore at small size.
        listed_once: first puts the candidates whose product is listed under one query alone in front, in the
            submission too; the weights are found without it. It uses a leak of the competition's lists and
            says nothing about a model (docs/leak.md).
    """

    data_dir: str = "data"
    resources_dir: str = "external_resources"
    split: Literal["testA", "testB"] = "testB"
    search: Search | None = None
    models: list[str] = field(default_factory=list)
    test_models: list[str] = field(default_factory=list)
    normalize: Normalization | None = None
    listed_once: ListedOnce | None = None


class Source(NamedTuple):
    """A model's predictions of the valid and the test table, and the command that makes them."""

    name: str
    valid: Path
    test: Path
    made_by: str


def find_sources(settings: EnsembleSettings, size: str) -> list[Source]:
    """Find the predictions of the models that are to be blended.

    Raises:
        UserError: it is not clear which test predictions go with those of valid.
    """
    if settings.test_models and not settings.models:
        raise UserError("--test_models needs --models, the valid predictions of the same models")
    folder, known = Path(settings.resources_dir), stages.list_rankers()
    models = settings.models or stages.list_blended(size)
    valid = [
        stages.predictions_path(folder, "valid", model) if model in known else Path(model) for model in models
    ]
    test = [Path(path) for path in settings.test_models]
    if not test:
        unclear = [path for path in valid if not path.name.startswith("valid_")]
        if unclear:
            raise UserError(
                f"{unclear[0]} is not named valid_…: name the test predictions with --test_models"
            )
        test = [path.with_name("test_" + path.name.removeprefix("valid_")) for path in valid]
    if len(test) != len(valid):
        raise UserError(
            f"--models names {len(valid)} models and --test_models {len(test)} files: "
            "give one of each for a model, in the same order"
        )
    names = [path.stem.removeprefix("valid_").removeprefix("pred_") for path in valid]
    if len(set(names)) < len(names):
        names = models
    if len(set(names)) < len(names):
        raise UserError("--models names a model twice: name each once")
    commands = [stages.name_command(model) for model in models]
    return [Source(*source) for source in zip(names, valid, test, commands, strict=True)]


def choose_search(settings: EnsembleSettings, size: str, models: int) -> Search:
    """Choose how the weights of so many models are found.

    Raises:
        UserError: the search that the settings name is for two models.
    """
    if settings.search is None:
        if size == "small":
            return "bagged"
        if models != 2:
            return "local"
        return "exact" if settings.models else "grid"
    if settings.search in TWO_MODELS and models != 2:
        raise UserError(
            f"--search {settings.search} blends two models, and there are {models}: take --search local"
        )
    return settings.search


def print_table(rows: dict[str, str]) -> None:
    """Print names and figures in two columns."""
    width = max(map(len, rows))
    for name, figure in rows.items():
        print(f"  {name:<{width}} {figure}")


def print_weights(names: list[str], weights: list[float], search: Search) -> None:
    """Print the weight of each model, that of a grid with its index."""
    if search == "grid":
        index = GRID[:, 0].tolist().index(weights[0])
        print(f"best weight of {names[0]} on valid: {weights[0]:.6f} (index {index})")
    else:
        print("best weights on valid")
        print_table({name: f"{weight:.6f}" for name, weight in zip(names, weights, strict=True)})


def report(
    table: str,
    blend: Blend,
    models: list[Predictions],
    answers: dict[str, list[int]],
    validated: np.ndarray | None = None,
) -> Figures:
    """Print the figures of each model and of the blend, with 95 % bootstrap intervals.

    Args:
        table: its name.
        blend: names and weighs the models.
        models: their predictions of the whole table.
        answers: relevant product ids by query id.
        validated: [queries] NDCG@5 of the blend's scores, cross-validated.

    Returns:
        The means of NDCG@5.
    """
    names = [model.name for model in blend.models]
    rankings = {name: ranking(model) for name, model in zip(names, models, strict=True)}
    rankings["blend"] = ranking(blend.fuse(models))
    if blend.listed_once:
        rankings[LISTED_ONCE] = ranking(blend.apply(models))
    ndcg = {name: ndcg_per_query(ranked, answers) for name, ranked in rankings.items()}
    random = random_ndcg(rankings["blend"], answers)
    rows = {"random order": f"{random:.6f}"} | {name: with_interval(found) for name, found in ndcg.items()}
    if validated is not None:
        rows["cross-validated"] = with_interval(validated)
    if blend.listed_once:
        rows[LISTED_ONCE] = rows.pop(LISTED_ONCE)  # to the end: the others are of scores
    print(f"NDCG@5 on {table} [95 % bootstrap interval over queries]")
    print_table(rows)
    print(f"recall and mean reciprocal rank on {table}")
    print_table({name: describe_others(ranked, answers) for name, ranked in rankings.items()})
    means = {name: float(found.mean()) for name, found in ndcg.items()}
    return Figures(
        random,
        {name: means[name] for name in names},
        means[LISTED_ONCE if blend.listed_once else "blend"],
        None if validated is None else float(validated.mean()),
        means["blend"] if blend.listed_once else None,
    )


def blend_models(settings: EnsembleSettings) -> Blend:
    """Find the weights, print figures, write the submission and ``blend.json``."""
    folder, data = Path(settings.resources_dir), Path(settings.data_dir)
    size = find_size(data)
    sources = find_sources(settings, size)
    search = choose_search(settings, size, len(sources))
    normalization = settings.normalize or ("zscore" if size == "small" else "none")
    names = [source.name for source in sources]
    valid = read_models([(source.valid, source.made_by) for source in sources])
    test = read_models([(source.test, source.made_by) for source in sources])
    answers = Split(data, "valid").read_answers(valid[0], sources[0].valid)

    # Find the weights on valid.
    candidates = CandidateScores.of([normalize(model, normalization) for model in valid], answers)
    weights = SEARCHES[search](candidates).tolist()
    print_weights(names, weights, search)
    models = tuple(
        BlendedModel(source.name, source.valid, source.test, weight)
        for source, weight in zip(sources, weights, strict=True)
    )
    blend = Blend(models, normalization, search, settings.split, {}, settings.listed_once)

    # Report on valid, and on the split where it has answers.
    validated = cross_validate(SEARCHES[search], candidates) if len(answers) > 1 else None
    figures = {"valid": report("valid", blend, valid, answers, validated)}
    split = Split(data, settings.split)
    if split.answers.is_file():
        answers = split.read_answers(test[0], sources[0].test)
        figures[split.name] = report(split.name, blend, test, answers)

    # Write the submission, and what it is made from.
    submission = folder / "submission.csv"
    write_submission(submission, blend.apply(test), read_products(data))
    blend = dataclasses.replace(blend, figures=figures)
    blend.write(folder)
    print(f"submission: {submission}")
    return blend


def main() -> None:
    """Blend the models."""
    blend_models(parse_settings(EnsembleSettings, __doc__))


if __name__ == "__main__":
    run_script(main)
