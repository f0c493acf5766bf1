"""The jobs that are measured, ours and the reference's; each function makes one in its own process."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import model1.model
import model2.model
import multilabel.model
from benchmarks import inputs, reference
from benchmarks.measure import Job
from kddcup.cli import parse_settings
from kddcup.config import MatcherSettings, ModelConfig
from kddcup.data.store import RegionStore
from kddcup.rank.blending import best_weight
from kddcup.rank.predictions import Predictions
from kddcup.rank.scoring import score_table
from kddcup.table.ingest import Ingest
from kddcup.table.table import Table
from kddcup.train.checkpoint import RunConfig
from kddcup.train.processes import Process
from kddcup.train.trainer import Trainer

CPU = torch.device("cpu")
RATE = 1e-4
WORDS = (2, 3)
"""Ids of the start and the end of a caption."""
MODELS = {
    "multilabel": (multilabel.model.MultiLabelClassifier, reference.MultiLabelClassifier, WORDS),
    "model1": (model1.model.WordImageModel, reference.WordImageModel, ()),
    "model2": (model2.model.SentenceImageModel, reference.SentenceImageModel, ()),
}


def make_model(stage: str, plain: bool) -> torch.nn.Module:
    """A stage's model at full size, the same parameters on both sides."""
    torch.manual_seed(0)
    ours, reference_, args = MODELS[stage]
    model = ours(ModelConfig(), *args)
    if plain:
        model, parameters = reference_(ModelConfig(), *args), model.state_dict()
        model.load_state_dict(parameters)
    return model


def make_trainer(process: Process, model: torch.nn.Module) -> Trainer:
    """What trains in this project, with the published settings of the optimizer."""
    settings = parse_settings(MatcherSettings, None, "model1", lambda _: "full", [])
    groups = [{"params": [one for one in model.parameters() if one.requires_grad], "lr": RATE}]
    return Trainer(process, model, groups, {}, settings, RunConfig())


def train_step(stage: str, rows: int, plain: bool) -> Job:
    """A training step; its result are the losses before the first, without dropout."""
    batch = inputs.batch(ModelConfig(), rows, negatives=stage != "multilabel")
    model = make_model(stage, plain)
    with torch.no_grad():
        losses = torch.stack(list(model.eval()(batch).values())).tolist()
    model.train()
    if plain:
        optimizer = torch.optim.Adam([one for one in model.parameters() if one.requires_grad], RATE)
        return Job(lambda: reference.train_step(model, optimizer, batch), lambda: losses)
    trainer = make_trainer(Process(0, 1, CPU), model)
    return Job(lambda: trainer.step([batch]), lambda: losses)


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
        return [float(np.load(folder / f"{one}.npz")["features"].sum(dtype=np.float64)) for one in ids]

    return Job(work, result)


def read_batches(store_folder: Path, count: int | None, images: int) -> Job:
    """Batches of images from the store, ``count`` of them or as many as there are products for."""
    store = RegionStore(store_folder)
    batches = _batches(store, count, images)
    last = []

    def work() -> None:
        for products in batches:
            last[:] = [store.gather(store.positions(products))]

    return Job(work, lambda: float(last[0].features.sum(dtype=torch.float64)))


def plain_read_batches(store_folder: Path, folder: Path, count: int, images: int) -> Job:
    """The same images from a file each."""
    batches = _batches(RegionStore(store_folder), count, images)
    last = []

    def work() -> None:
        for products in batches:
            last[:] = [reference.read_images(folder, products.tolist())]

    return Job(work, lambda: float(last[0][0].sum(dtype=torch.float64)))


def _batches(store: RegionStore, count: int | None, images: int) -> list[np.ndarray]:
    order = np.random.default_rng(0).permutation(store.product_ids)
    return np.split(order, range(images, len(order), images))[:count]


def score(stage: str, table: Path, plain: bool) -> Job:
    """A table's scores, each query's in descending order."""
    model, found = make_model(stage, plain).eval(), {}

    def work() -> None:
        if plain:
            found.update(reference.score_table(table, model, inputs.encode_text))
        else:
            scored = score_table(table, model, inputs.encode_text, model.item.norm.weight.numel(), CPU)
            found.update({query: [score for _, score in ranked] for query, ranked in scored.items()})

    return Job(work, lambda: [sorted(scores, reverse=True) for scores in found.values()])


Best = Callable[[Predictions, Predictions, dict[str, list[int]]], tuple[float, float]]


def blend(plain: bool) -> Job:
    """The best of 100 weights over 496 queries, and its NDCG@5."""
    told, found = inputs.predictions(), []
    search: Best = reference.best_weight if plain else best_weight

    def work() -> None:
        found[:] = search(*told)

    return Job(work, lambda: found)
