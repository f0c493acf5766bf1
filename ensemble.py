"""Stage 5: blend the two models and write the submission.

The weight is the first best of 100 on the valid table. Example:

    python ensemble.py --data_dir data/sample --resources_dir external_resources/sample
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from kddcup.config import parse_settings
from kddcup.errors import UserError, run_script
from kddcup.metrics import bootstrap_interval, ndcg_per_query, random_ndcg
from kddcup.predictions import (
    Predictions,
    check_answered,
    ranking,
    read_answers,
    read_predictions,
    write_submission,
)
from kddcup.scoring import Split

WEIGHTS = np.linspace(0, 1, 100)


@dataclass
class EnsembleSettings:
    """Settings of stage 5.

    Args:
        data_dir: folder of the tables; their answers are read.
        resources_dir: folder of the predictions of model1 and model2; submission.csv is written there.
        split: the test table; its own answers, where it has some, are only reported on.
    """

    data_dir: str = "data"
    resources_dir: str = "external_resources"
    split: Literal["testA", "testB"] = "testB"


def blend(model1: Predictions, model2: Predictions, weight: float) -> Predictions:
    """weight · model1 + (1 − weight) · model2; of equal scores the earlier in model1 stands first.

    Args:
        model1: scores by query.
        model2: scores of the same candidates.
        weight: of model1, from 0 to 1.
    """
    blended = {}
    for query, candidates in model1.items():
        others = dict(model2[query])
        scores = [(product, weight * score + (1 - weight) * others[product]) for product, score in candidates]
        blended[query] = sorted(scores, key=lambda candidate: -candidate[1])
    return blended


def best_weight(
    model1: Predictions, model2: Predictions, answers: Mapping[str, list[int]]
) -> tuple[float, float]:
    """The first of 100 weights from 0 to 1 with the best mean NDCG@5, and that."""
    judged = {query: model1[query] for query in answers}
    reached = [
        ndcg_per_query(ranking(blend(judged, model2, weight)), answers).mean() for weight in WEIGHTS.tolist()
    ]
    return float(WEIGHTS[np.argmax(reached)]), float(max(reached))


def read_pair(folder: Path, name: str) -> tuple[Predictions, Predictions]:
    """The predictions of both models, for the same candidates.

    Raises:
        UserError: a file cannot be read, or one lacks a query or a candidate that the other has.
    """
    paths = [folder / f"{name}_pred_model{number}.json" for number in (1, 2)]
    model1, model2 = (
        read_predictions(path, f"cd model{number}; python validation.py")
        for number, path in enumerate(paths, 1)
    )
    sides = ((model1, paths[0]), (model2, paths[1]))
    for (one, path), (other, source) in (sides, sides[::-1]):
        for query, candidates in other.items():
            if query not in one:
                raise UserError(f"{path} lacks query {query}, which {source} has: make both from one table")
            missing = dict(candidates).keys() - dict(one[query]).keys()
            if missing:
                raise UserError(
                    f"{path} lacks product {min(missing)} under query {query}, which {source} has: "
                    "make both from one table"
                )
    return model1, model2


def report(name: str, rankings: Mapping[str, list[int]], answers: Mapping[str, list[int]]) -> None:
    """Print one line with NDCG@5 and its 95 % bootstrap interval."""
    per_query = ndcg_per_query(rankings, answers)
    low, high = bootstrap_interval(per_query)
    print(f"  {name:<12} {per_query.mean():.6f}  [{low:.4f}, {high:.4f}]")


def main() -> None:
    """Find the weight, report, write the submission."""
    settings = parse_settings(EnsembleSettings, __doc__)
    folder, data = Path(settings.resources_dir), Path(settings.data_dir)
    valid, test = read_pair(folder, "valid"), read_pair(folder, "test")
    splits = [(Split(data, "valid"), valid)]
    if Split(data, settings.split).answers.is_file():
        splits.append((Split(data, settings.split), test))
    answers = read_answers(splits[0][0].answers)
    check_answered(valid[0], answers, (folder / "valid_pred_model1.json", splits[0][0].answers))
    weight, _ = best_weight(*valid, answers)
    print(f"best weight of model1 on valid: {weight:.6f} (index {int(np.argmax(weight == WEIGHTS))})")
    for split, pair in splits:
        judged = read_answers(split.answers)
        check_answered(pair[0], judged, (folder, split.answers))
        candidates = ranking(pair[0])
        print(f"NDCG@5 on {split.name} [95 % bootstrap interval over queries]")
        print(f"  {'random order':<12} {random_ndcg(candidates, judged):.6f}")
        report("model1", candidates, judged)
        report("model2", ranking(pair[1]), judged)
        report("blend", ranking(blend(*pair, weight)), judged)
    submission = folder / "submission.csv"
    write_submission(submission, blend(*test, weight))
    print(f"submission: {submission}")


if __name__ == "__main__":
    run_script(main)
