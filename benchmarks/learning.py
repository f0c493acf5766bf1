"""What each setting of the small size earns: the stages trained with it, and without it. Examples:

    python -m benchmarks.learning
    python -m benchmarks.learning --sets groceries --stages model1 --seeds 1
    python -m benchmarks.learning --show

For every set and seed, stage 2 is trained as its recipe says, and once for each of its variants; then the
matchers likewise, all from the encoder of the recipe's stage 2; then the recipes' models are blended, with
the logistic regression and without it. Every run is a line of a file: what has one is not run again, so that
the command continues where it was stopped. Choose by valid: of testB, only the recipes' figures are shown.

"sample" and "catalogue" are made here; "pictures", "groceries" and "groceries-apart" are made of what lies in
../shared, if it is there. "groceries-apart" is a harder split of the same photographs: see apart.py.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np
from jsonargparse.typing import PositiveInt

from benchmarks.apart import write_pairs_apart
from kddcup.cli import parse_settings
from kddcup.io.errors import UserError, run_script
from kddcup.rank.blend import Blend
from kddcup.rank.metrics import bootstrap_interval, ndcg_per_query
from kddcup.rank.predictions import Predictions, ranking, read_predictions
from kddcup.rank.split import Split
from kddcup.stages import BASELINES

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
RECIPE = "recipe"
VARIANTS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "multilabel": {
        "labels of the query": ("--labels", "query"),
        "features as they are": ("--feature_length", "0"),
        "Adam": ("--optimizer", "adam", "--weight_decay", "1e-6"),
        "no region dropped": ("--region_drop", "0"),
        "no noise": ("--feature_noise", "0"),
        "last weights": ("--average", "0"),
    },
    "model1": {
        "from the encoder alone": ("--start", "encoder"),
        "margin 0.9": ("--margin", "0.9"),
        "hardest negatives from the start": ("--mean_epochs", "0"),
        "negatives with the same words": ("--positives", "listed"),
    },
    "model2": {
        "from the encoder alone": ("--start", "encoder"),
        "negatives with the same words": ("--positives", "listed"),
    },
}
"""By stage and name: the flags that change its recipe."""
BLENDS = {"blend": (*VARIANTS, "logistic"), "blend without logistic": tuple(VARIANTS)}
SPLITS = ("valid", "testB")
SET = Literal["sample", "pictures", "groceries", "groceries-apart", "catalogue"]


@dataclass
class LearningSettings:
    """Settings of the ablation.

    Args:
        sets: to train on.
        stages: to train; the matchers start from the encoder of stage 2's recipe, which has to be there.
        recipes: train the recipes alone, and no variants.
        seeds: of the training runs.
        jobs: runs at a time, of one thread each.
        work: folder of the sets, the runs' checkpoints and predictions, and of the file of lines, runs.jsonl.
        show: print the table of the runs that are there, and train nothing.
    """

    sets: list[SET] = field(default_factory=lambda: ["sample", "pictures", "groceries", "catalogue"])
    stages: list[Literal["multilabel", "model1", "model2"]] = field(default_factory=lambda: list(VARIANTS))
    seeds: list[int] = field(default_factory=lambda: [1, 2, 3])
    recipes: bool = False
    jobs: PositiveInt = 2
    work: str = "data/learning"
    show: bool = False


@dataclass(frozen=True)
class Key:
    """What names a run."""

    set: str
    seed: int
    stage: str
    variant: str = RECIPE


class Runs:
    """The runs that have been made, a line each: its key, flags and seconds, and NDCG@5 by split and query.

    Args:
        path: of the file of lines, which grows.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, Lock()
        lines = path.read_text().splitlines() if path.is_file() else []
        self._runs = {self._key(run): run for run in map(json.loads, lines)}

    def has(self, key: Key, flags: tuple[str, ...] = ()) -> bool:
        """Whether the run has been made, with these flags."""
        return key in self._runs and self._runs[key]["flags"] == list(flags)

    def add(
        self, key: Key, flags: tuple[str, ...], seconds: float, ndcg: dict[str, dict[str, float]]
    ) -> None:
        """Add a line."""
        run = {**vars(key), "flags": list(flags), "seconds": round(seconds, 1), **ndcg}
        with self._lock:
            self._runs[key] = run
            with self._path.open("a") as file:
                file.write(json.dumps(run) + "\n")

    def variants(self, name: str) -> list[tuple[str, str]]:
        """The stages and variants that a set has runs of, in their order."""
        order = [*BASELINES, *VARIANTS, *BLENDS]
        found = {(key.stage, key.variant) for key in self._runs if key.set == name}
        return sorted(found, key=lambda one: (order.index(one[0]), one[1] != RECIPE, one[1]))

    def ndcg(self, name: str, stage: str, variant: str, split: str) -> dict[int, np.ndarray]:
        """NDCG@5 [queries] by seed."""
        found = self._find(name, stage, variant)
        return {seed: np.array(list(run[split].values())) for seed, run in found.items()}

    def seconds(self, name: str, stage: str, variant: str) -> float:
        """How long a run took, its validation included: the mean over the seeds."""
        return float(np.mean([run["seconds"] for run in self._find(name, stage, variant).values()]))

    def _find(self, *wanted: str) -> dict[int, Any]:
        """The runs of a set, stage and variant by seed."""
        return {
            key.seed: run for key, run in self._runs.items() if (key.set, key.stage, key.variant) == wanted
        }

    @staticmethod
    def _key(run: Mapping[str, Any]) -> Key:
        return Key(run["set"], run["seed"], run["stage"], run["variant"])


def run(*command: str | Path, folder: Path = ROOT) -> None:
    """Run a script as a user does, of one thread; its output is shown where it fails.

    Raises:
        UserError: it failed.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, *map(str, command)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{' '.join(command)}, in {folder}, failed: {done.stderr.strip()[-2000:]}")


def make_set(name: SET, folder: Path) -> None:
    """Make the tables of a set, and run stage 1 on them."""
    if (folder / "info" / "complete.json").is_file():
        return
    match name:
        case "sample":
            run("-m", "kddcup.sample", "--out", folder)
        case "pictures":
            run(SHARED / "pictures" / "write_tables.py", folder, "--many")
        case "groceries":
            pairs = SHARED / "groceries" / "pairs.csv"
            run(
                "-m", "kddcup.extract", "--images", pairs.parent / "photos", "--pairs", pairs, "--out", folder
            )
        case "groceries-apart":
            groceries, pairs = folder.with_name("groceries"), folder.with_name("groceries-apart.csv")
            make_set("groceries", groceries)
            write_pairs_apart(groceries, SHARED / "groceries", pairs)
            photos = SHARED / "groceries" / "photos"
            run("-m", "kddcup.extract", "--images", photos, "--pairs", pairs, "--out", folder)
        case "catalogue":
            drawn = folder.with_name("drawn")
            run("-m", "kddcup.catalogue", "--out", drawn)
            images, pairs = drawn / "pictures", drawn / "pairs.csv"
            run("-m", "kddcup.extract", "--images", images, "--pairs", pairs, "--out", folder)
    run("preprocess.py", "--data_dir", folder, "--size", "small", "--tokenizer", "lexicon")


def score(data: Path, folder: Path, name: str) -> dict[str, dict[str, float]]:
    """NDCG@5 of a folder's predictions of a name, by split and query."""
    files = {"valid": f"valid_pred_{name}.json", "testB": f"test_pred_{name}.json"}
    return {
        split: score_predictions(data, split, read_predictions(folder / file, "this command"))
        for split, file in files.items()
    }


def score_predictions(data: Path, split: str, predictions: Predictions) -> dict[str, float]:
    """NDCG@5 of predictions, by query."""
    source = Split(data, split)
    answers = source.read_answers(predictions, source.table)
    return dict(zip(answers, ndcg_per_query(ranking(predictions), answers).tolist(), strict=True))


class Ablation:
    """All runs of a set.

    Args:
        settings: of the command.
        runs: where they are noted.
    """

    def __init__(self, settings: LearningSettings, runs: Runs) -> None:
        self._settings, self._runs, self._work = settings, runs, Path(settings.work).resolve()

    def prepare(self, name: SET) -> None:
        """Make the set, and fit the baselines to it."""
        make_set(name, self._data(name))
        folder = self._folder(Key(name, 0, "baseline"))
        if all(self._runs.has(Key(name, 0, line)) for line in BASELINES):
            return
        began = time.monotonic()
        run("-m", "kddcup.baseline", "--data_dir", self._data(name), "--resources_dir", folder)
        for line in BASELINES:
            ndcg = score(self._data(name), folder, line)
            self._runs.add(Key(name, 0, line), (), time.monotonic() - began, ndcg)

    def train_seed(self, name: SET, seed: int) -> None:
        """Train the stages with a seed, and blend the recipes if those of all stages are there."""
        for stage in sorted(self._settings.stages, key=list(VARIANTS).index):
            self._train(Key(name, seed, stage), ())
            if not self._settings.recipes:
                for variant, flags in VARIANTS[stage].items():
                    self._train(Key(name, seed, stage, variant), flags)
        if all(self._runs.has(Key(name, seed, stage)) for stage in VARIANTS):
            for blend, models in BLENDS.items():
                self._blend(Key(name, seed, blend), models)

    def _train(self, key: Key, flags: tuple[str, ...]) -> None:
        if self._runs.has(key, flags):
            return
        folder, data, began = self._folder(key), self._data(key.set), time.monotonic()
        shutil.rmtree(folder, ignore_errors=True)
        checkpoints = folder / "checkpoints"
        where = ("--data_dir", data, "--checkpoints_dir", checkpoints)
        encoder = self._folder(Key(key.set, key.seed, "multilabel")) / "encoder.pth"
        start = ("--size", "small") if key.stage == "multilabel" else ("--encoder", encoder)
        stage = ROOT / key.stage
        run("train.py", *where, *start, "--seed", str(key.seed), "--stop_at_use_epoch", *flags, folder=stage)
        files = {
            "--valid_out_path": folder / f"valid_pred_{key.stage}.json",
            "--test_out_path": folder / f"test_pred_{key.stage}.json",
        }
        run("validation.py", *where, *(part for pair in files.items() for part in pair), folder=stage)
        if key.stage == "multilabel" and key.variant == RECIPE:
            run("export_model.py", "--checkpoints_dir", checkpoints, "--out_path", encoder, folder=stage)
        shutil.rmtree(checkpoints)
        self._runs.add(key, flags, time.monotonic() - began, score(data, folder, key.stage))

    def _blend(self, key: Key, models: tuple[str, ...]) -> None:
        if self._runs.has(key):
            return
        folder, data, began = self._folder(key), self._data(key.set), time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        sources = {
            model: self._folder(
                Key(key.set, 0, "baseline") if model in BASELINES else Key(key.set, key.seed, model)
            )
            for model in models
        }
        files = {
            flag: [source / f"{table}_pred_{model}.json" for model, source in sources.items()]
            for flag, table in (("--models", "valid"), ("--test_models", "test"))
        }
        flags = [part for flag, paths in files.items() for part in (flag, *paths)]
        run("ensemble.py", "--data_dir", data, "--resources_dir", folder, "--normalize", "zscore", *flags)
        blend = Blend.read(folder)
        ndcg = {
            split: score_predictions(data, split, blend.apply(blend.read_models(split))) for split in SPLITS
        }
        self._runs.add(key, (), time.monotonic() - began, ndcg)

    def _data(self, name: str) -> Path:
        return self._work / name

    def _folder(self, key: Key) -> Path:
        return self._work / "runs" / key.set / str(key.seed) / f"{key.stage}-{key.variant}".replace(" ", "_")


def average(by_seed: Mapping[int, np.ndarray]) -> np.ndarray:
    """[queries] the mean over seeds."""
    return np.mean(list(by_seed.values()), axis=0)


def format_difference(first: np.ndarray, second: np.ndarray) -> str:
    """The mean difference of figures of the same queries, and its 95 % bootstrap interval over queries."""
    low, high = bootstrap_interval(first - second)
    return f"{(first - second).mean():+.3f} [{low:+.3f}, {high:+.3f}]"


def show_variants(runs: Runs, name: str) -> None:
    """Print, as Markdown, each variant beside the recipe, by the seeds that both have."""
    print(f"\n{name}, valid\n\n| stage | variant | seeds | NDCG@5 | variant − recipe | s |")
    print("|---|---|---|---|---|---|")
    for stage, variant in runs.variants(name):
        found, recipe = (runs.ndcg(name, stage, one, "valid") for one in (variant, RECIPE))
        seeds = found.keys() & recipe.keys()
        if variant == RECIPE or not seeds:
            figure, less = average(found), ""
        else:
            figure = average({seed: found[seed] for seed in seeds})
            less = format_difference(figure, average({seed: recipe[seed] for seed in seeds}))
        seconds = runs.seconds(name, stage, variant)
        print(f"| {stage} | {variant} | {len(found)} | {figure.mean():.3f} | {less} | {seconds:.0f} |")


def show_recipes(runs: Runs, name: str) -> None:
    """Print, as Markdown, the recipes' models beside the logistic regression, on valid and testB together."""
    print(f"\n{name}\n\n| model | valid | testB | both − logistic |\n|---|---|---|---|")
    line = [average(runs.ndcg(name, "logistic", RECIPE, split)) for split in SPLITS]
    for stage, variant in runs.variants(name):
        if variant == RECIPE:
            both = [average(runs.ndcg(name, stage, RECIPE, split)) for split in SPLITS]
            figures = " | ".join(f"{figure.mean():.3f}" for figure in both)
            print(
                f"| {stage} | {figures} | {format_difference(np.concatenate(both), np.concatenate(line))} |"
            )


def main() -> None:
    """Train what has no line yet, and show the table."""
    settings = parse_settings(LearningSettings, __doc__)
    work = Path(settings.work)
    work.mkdir(parents=True, exist_ok=True)
    runs = Runs(work / "runs.jsonl")
    if not settings.show:
        names = [name for name in settings.sets if name in ("sample", "catalogue") or SHARED.is_dir()]
        for name in settings.sets:
            if name not in names:
                print(f"{name}: left out, since {SHARED} is absent")
        ablation = Ablation(settings, runs)
        for name in names:
            ablation.prepare(name)
        with ThreadPoolExecutor(settings.jobs) as pool:
            tasks = [
                pool.submit(ablation.train_seed, name, seed) for seed in settings.seeds for name in names
            ]
            for task in tasks:
                task.result()
    for name in settings.sets:
        if runs.variants(name):
            show_variants(runs, name)
            show_recipes(runs, name)


if __name__ == "__main__":
    run_script(main)
