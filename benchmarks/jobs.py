"""The jobs that are measured, ours and the reference's; each function prepares one, in its own process."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch.optim import Adam

import model1.criterion
import model2.criterion
import multilabel.criterion
from benchmarks import inputs, reference
from benchmarks.measure import Job
from kddcup import stages
from kddcup.cli import find_defaults
from kddcup.config import ModelConfig, TrainSettings
from kddcup.data.store import RegionStore
from kddcup.nn.ranker import Ranker
from kddcup.nn.words import list_trainable
from kddcup.rank.scoring import encode_candidates, score_encoded
from kddcup.rank.weights import CandidateScores, search_grid
from kddcup.table.ingest import Ingest
from kddcup.table.table import Table
from kddcup.train.checkpoint import RunConfig
from kddcup.train.precision import tf32
from kddcup.train.processes import Process
from kddcup.train.trainer import Trainer

CPU = torch.device("cpu")
PUBLISHED = ModelConfig()
LOSSES = {
    "multilabel": multilabel.criterion.compute_losses,
    "model1": model1.criterion.compute_losses,
    "model2": model2.criterion.compute_losses,
}
"""By stage."""
PLAIN_LOSSES = LOSSES | {"multilabel": reference.compute_multilabel_losses}


def build_model(stage: str, config: ModelConfig, plain: bool, device: torch.device = CPU) -> Ranker:
    """Build a stage's model, frozen as for its training; the same parameters on both sides."""
    torch.manual_seed(0)
    with device:
        model = stages.find(stage).build(config)
    if plain:
        parameters = model.state_dict()
        with torch.device("meta"):  # which spends no time on random parameters
            model = reference.MODELS[stage](config)
        model.load_state_dict(parameters, assign=True)
    if stages.find(stage).kind == "matcher":
        model.item.freeze_context()
    return model


def build_settings(stage: str, **others: object) -> TrainSettings:
    """Build a stage's settings: those of the full size, and others."""
    return TrainSettings(**{**find_defaults(TrainSettings, stages.find(stage).recipes["full"]), **others})


def build_trainer(process: Process, stage: str, model: Ranker, precision: str = "float32") -> Trainer:
    """Build what trains in this project, at the full size's rate."""
    found, settings = stages.find(stage), build_settings(stage, precision=precision)
    recipe = found.recipes["full"]
    optimizer = Adam(list_trainable(model), recipe.rate, weight_decay=recipe.weight_decay, fused=True)
    return Trainer(process, found, model, LOSSES[stage], optimizer, lambda _: 1.0, settings, RunConfig())


@contextlib.contextmanager
def compute_in(precision: str, device: torch.device) -> Iterator[None]:
    """Have the block's layers compute in a precision."""
    with tf32(precision == "tf32"), torch.autocast(device.type, torch.bfloat16, precision == "bf16"):
        yield


def train_step(
    stage: str,
    rows: int,
    plain: bool,
    config: ModelConfig = PUBLISHED,
    device: torch.device = CPU,
    precision: str = "float32",
) -> Job:
    """A training step; its result are the losses before the first, without dropout."""
    batch = inputs.draw_batch(config, rows, negatives=stages.find(stage).kind == "matcher").to(device)
    model = build_model(stage, config, plain, device)
    compute_losses = (PLAIN_LOSSES if plain else LOSSES)[stage]
    with torch.no_grad(), compute_in(precision, device):
        losses = torch.stack(list(compute_losses(model.eval()(batch), batch).values())).tolist()
    model.train()
    if not plain:
        trainer = build_trainer(Process(0, 1, device), stage, model, precision)
        return Job(lambda: trainer.step([batch]), lambda: losses)
    recipe = stages.find(stage).recipes["full"]
    optimizer = Adam(list_trainable(model), recipe.rate, weight_decay=recipe.weight_decay)

    def work() -> None:
        optimizer.zero_grad()
        with tf32(precision == "tf32"):
            with torch.autocast(device.type, torch.bfloat16, precision == "bf16"):
                loss = sum(compute_losses(model(batch), batch).values())
            loss.backward()
        optimizer.step()

    return Job(work, lambda: losses)


def preprocess(table: Path, folder: Path, workers: int) -> Job:
    """The table into a region store; its result, the sum of features of each product."""

    def work() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        Ingest(Table(table), folder, "float16", workers).run()

    def result() -> list[float]:
        store = RegionStore(folder)
        starts = np.asarray(store.offsets[:-1])
        sums = np.add.reduceat(store.features.sum(1, dtype=np.float64), starts)
        return sums[np.argsort(store.product_ids)].tolist()

    return Job(work, result)


def plain_preprocess(table: Path, folder: Path) -> Job:
    """The table into a file per product."""

    def work() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        reference.preprocess(table, folder)

    def result() -> list[float]:
        ids = sorted(int(path.stem) for path in folder.iterdir())
        return [
            float(np.load(folder / f"{product}.npz")["features"].sum(dtype=np.float64)) for product in ids
        ]

    return Job(work, result)


def read_batches(store_folder: Path, count: int | None, images: int) -> Job:
    """Batches of images from the store, ``count`` of them or as many as there are products for."""
    store = RegionStore(store_folder)
    batches = _draw_batches(store, count, images)
    last = []

    def work() -> None:
        for products in batches:
            last[:] = [store.gather(store.positions(products))]

    return Job(work, lambda: float(last[0].features.sum(dtype=torch.float64)))


def plain_read_batches(store_folder: Path, folder: Path, count: int, images: int) -> Job:
    """The same images from a file each."""
    batches = _draw_batches(RegionStore(store_folder), count, images)
    last = []

    def work() -> None:
        for products in batches:
            last[:] = [reference.read_images(folder, products.tolist())]

    return Job(work, lambda: float(last[0][0].sum(dtype=torch.float64)))


def _draw_batches(store: RegionStore, count: int | None, images: int) -> list[np.ndarray]:
    order = np.random.default_rng(0).permutation(store.product_ids)
    return np.split(order, range(images, len(order), images))[:count]


def score(
    stage: str,
    table: Path,
    plain: bool,
    config: ModelConfig = PUBLISHED,
    device: torch.device = CPU,
    precision: str = "float32",
) -> Job:
    """A table's scores, each query's in descending order."""
    vocabulary, scores = inputs.build_vocabulary(), {}
    model = build_model(stage, config, plain, device).eval()

    def work() -> None:
        with compute_in(precision, device):
            if plain:
                found = reference.score_table(table, model, vocabulary, device)
            else:
                candidates = encode_candidates(table, model, vocabulary, config.region_dim, device)
                found = {
                    query: [score for _, score in ranked]
                    for query, ranked in score_encoded(candidates).items()
                }
        scores.update(found)

    return Job(work, lambda: [sorted(values, reverse=True) for values in scores.values()])


def blend(plain: bool) -> Job:
    """The best of 100 weights over 496 queries, and its NDCG@5."""
    *models, answers = inputs.draw_predictions()
    best = []

    def work() -> None:
        if plain:
            best[:] = reference.best_weight(*models, answers)
        else:
            candidates = CandidateScores.of(models, answers)
            weights = search_grid(candidates)
            best[:] = weights[0], candidates.mean_ndcg(weights)

    return Job(work, lambda: best)
