"""Stage 2: pretrain the image encoder by tagging and captioning.

Reads DATA/features and DATA/info; writes a checkpoint and scores valid after every epoch. Examples, in this
folder:

    python train.py
    torchrun --nproc_per_node=2 train.py --devices 0 1
"""

from dataclasses import dataclass
from typing import Literal

from jsonargparse.typing import NonNegativeFloat, PositiveInt
from torch.optim import Adam, AdamW

from kddcup import stages
from kddcup.cli import parse_settings
from kddcup.config import Fraction, ModelConfig, TrainSettings
from kddcup.data.corpus import read_size
from kddcup.data.loader import TrainLoader
from kddcup.data.perturbation import Perturbation
from kddcup.io.errors import run_script
from kddcup.nn.words import list_trainable
from kddcup.table.table import Table
from kddcup.train.data import TrainingData
from kddcup.train.launch import launch
from kddcup.train.log import format_header
from kddcup.train.trainer import Trainer
from multilabel.criterion import compute_losses
from multilabel.description import describe, find_first_products

STAGE = stages.find("multilabel")
DESCRIBED = 8
"""Products of the valid table whose tags and captions TensorBoard shows epoch by epoch."""


@dataclass
class PretrainSettings(TrainSettings):
    """Stage 2.

    Args:
        size: of the model and its recipe; by default the one that stage 1 was given.
        accumulate: micro-batches that a batch is computed in, one after the other, to save memory; the
            update is that of the whole batch.
        labels: the tags to learn of an image. ``query``: the words of the row's query, and an epoch goes
            through the rows. ``product``: those of all its product's queries, and an epoch goes through the
            products, each with one of its queries as the caption.
        optimizer: adam adds the weight decay to the gradient, adamw shrinks the weights by it.
        feature_length: to which each region's sign(x)·√|x| is scaled; 0 leaves features as they are.
        feature_noise: deviation of the noise around 1 that features are multiplied by.
        region_drop: probability that a region is left out of its image.
    """

    size: Literal["full", "small"] | None = None
    accumulate: PositiveInt = 1
    labels: Literal["query", "product"] = "query"
    optimizer: Literal["adam", "adamw"] = "adam"
    feature_length: NonNegativeFloat = ModelConfig.feature_length
    feature_noise: NonNegativeFloat = 0.0
    region_drop: Fraction = 0.0


def choose_size(settings: PretrainSettings) -> str:
    """The size of the model: what stage 1 was given, unless told otherwise."""
    return settings.size or read_size(settings.data_dir)


def main() -> None:
    """Train."""
    settings = parse_settings(PretrainSettings, __doc__, STAGE.recipes, choose_size)
    with launch(settings) as process:
        # Data: the rows whose query has words that the vocabulary knows, or their products.
        data = TrainingData.open(settings.data_dir)
        tokens = data.corpus.tokens.drop(data.vocabulary.unknown)
        by_product = settings.labels == "product"
        settings = data.fit_batch(settings, tokens, process, by_product)
        perturb = None
        if settings.region_drop or settings.feature_noise:
            perturb = Perturbation(settings.region_drop, settings.feature_noise, settings.seed)
        loader = TrainLoader(
            data.corpus,
            data.store,
            tokens,
            settings,
            process.rank,
            process.ranks,
            accumulate=settings.accumulate,
            by_product=by_product,
            perturb=perturb,
        )

        # Model: all is trained but the word vectors.
        config = data.configure(settings, choose_size(settings), settings.feature_length)
        model = STAGE.build(config.model)
        model.set_words(data.words)
        process.say(format_header(STAGE, settings, config, data.count(model), model, process))

        # Optimizer: one group; its rate in epochs 0, 1, 2, … is rate · (1, 1, γ, γ², …).
        optimizer = {"adam": Adam, "adamw": AdamW}[settings.optimizer](
            list_trainable(model), lr=settings.rate, weight_decay=settings.weight_decay, fused=True
        )

        def rate_factor(epoch: int) -> float:
            return settings.gamma ** max(0, epoch - 1)

        # What TensorBoard shows of an epoch: tags and captions of a few images.
        rows = find_first_products(Table(data.valid.table), DESCRIBED) if process.is_main else []

        def describe_images() -> dict[str, str]:
            return {
                f"product {row.product_id}": describe(row, model, data.vocabulary, process.device)
                for row in rows
            }

        trainer = Trainer(process, STAGE, model, compute_losses, optimizer, rate_factor, settings, config)
        for epoch in trainer.epochs():
            for batch in trainer.batches(loader, epoch):
                trainer.step(batch)
            trainer.finish(epoch, lambda: data.score_valid(model, process.device), describe_images)


if __name__ == "__main__":
    run_script(main)
