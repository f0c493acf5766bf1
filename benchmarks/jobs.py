"""The jobs that are measured, ours and the reference's; each function prepares one, in its own process."""

import shutil
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
from kddcup.train.processes import Process
from kddcup.train.trainer import Trainer

CPU = torch.device("cpu")
LOSSES = {
    "multilabel": multilabel.criterion.compute_losses,
    "model1": model1.criterion.compute_losses,
    "model2": model2.criterion.compute_losses,
}
"""By stage."""
PLAIN_LOSSES = LOSSES | {"multilabel": reference.compute_multilabel_losses}


def build_model(stage: str, config: ModelConfig, plain: bool) -> Ranker:
    """Build a stage's model, frozen as for its training; the same parameters on both sides."""
    torch.manual_seed(0)
    model = stages.find(stage).build(config)
    if plain:
        parameters = model.state_dict()
        with torch.device("meta"):  # which spends no time on random parameters
            model = reference.MODELS[stage](config)
        model.load_state_dict(parameters, assign=True)
    if stages.find(stage).kind == "matcher":
        model.item.freeze_context()
    return model


def build_trainer(process: Process, stage: str, model: Ranker) -> Trainer:
    """Build what trains in this project, at the full size's rate."""
    found = stages.find(stage)
    recipe = found.recipes["full"]
    settings = TrainSettings(**find_defaults(TrainSettings, recipe))
    optimizer = Adam(list_trainable(model), recipe.rate, weight_decay=recipe.weight_decay, fused=True)
    return Trainer(process, found, model, LOSSES[stage], optimizer, lambda _: 1.0, settings, RunConfig())


def train_step(stage: str, rows: int, plain: bool) -> Job:
    """A training step; its result are the losses before the first, without dropout."""
    batch = inputs.draw_batch(ModelConfig(), rows, negatives=stages.find(stage).kind == "matcher")
    model = build_model(stage, ModelConfig(), plain)
    compute_losses = (PLAIN_LOSSES if plain else LOSSES)[stage]
    with torch.no_grad():
        losses = torch.stack(list(compute_losses(model.eval()(batch), batch).values())).tolist()
    model.train()
    if not plain:
        trainer = build_trainer(Process(0, 1, CPU), stage, model)
        return Job(lambda: trainer.step([batch]), lambda: losses)
    recipe = stages.find(stage).recipes["full"]
    optimizer = Adam(list_trainable(model), recipe.rate, weight_decay=recipe.weight_decay)

    def work() -> None:
        optimizer.zero_grad()
        sum(compute_losses(model(batch), batch).values()).backward()
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


def score(stage: str, table: Path, plain: bool) -> Job:
    """A table's scores, each query's in descending order."""
    config, vocabulary = ModelConfig(), inputs.build_vocabulary()
    model, scores = build_model(stage, config, plain).eval(), {}

    def work() -> None:
        if plain:
            scores.update(reference.score_table(table, model, vocabulary))
        else:
            candidates = encode_candidates(table, model, vocabulary, config.region_dim, CPU)
            predictions = score_encoded(candidates)
            scores.update({query: [score for _, score in ranked] for query, ranked in predictions.items()})

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
