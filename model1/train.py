"""Stage 3: train model1, which matches each word of the query with the image.

Reads DATA/features, DATA/info and the encoder of stage 2; writes a checkpoint and scores valid after every
epoch. The hardest negatives are mined within a batch, so that micro-batches would make another loss: there is
no --accumulate here as in stages 2 and 4. Examples, in this folder:

    python train.py
    python -u -m torch.distributed.launch --nproc_per_node=2 train.py --devices 0 1
"""

from dataclasses import dataclass, replace
from typing import Literal

from jsonargparse.typing import NonNegativeInt, PositiveFloat
from torch import Tensor
from torch.optim import Adam

from kddcup import stages
from kddcup.cli import parse_settings
from kddcup.config import MatcherSettings
from kddcup.data.batch import Batch
from kddcup.data.loader import TrainLoader
from kddcup.data.sampling import Matches, NegativeRule, NegativeSampler
from kddcup.io.errors import run_script
from kddcup.nn.words import list_trainable
from kddcup.train.checkpoint import ExportedEncoder
from kddcup.train.data import TrainingData
from kddcup.train.launch import launch
from kddcup.train.log import format_header
from kddcup.train.trainer import Trainer
from model1.criterion import MARGIN, compute_losses
from model1.model import Scores

STAGE = stages.find("model1")
NEGATIVES = NegativeRule(shared_group=True, from_all_share=0.0)


@dataclass
class Model1Settings(MatcherSettings):
    """Stage 3.

    Args:
        start: what the model starts from: stage 2's encoder, or its tags too: a word then scores log σ of its
            best product, and all words have the same weight at first.
        margin: by which a pair's score is to exceed those of its negatives.
        mean_epochs: first epochs in which all of a batch count as negatives and not the hardest alone.
    """

    start: Literal["encoder", "tagger"] = "encoder"
    margin: PositiveFloat = MARGIN
    mean_epochs: NonNegativeInt = 0


def main() -> None:
    """Train."""
    settings = parse_settings(
        Model1Settings, __doc__, STAGE.recipes, lambda given: ExportedEncoder.read(given.encoder).config.size
    )
    with launch(settings) as process:
        # Data: rows of the table, each with a negative query and a negative image.
        data = TrainingData.open(settings.data_dir)
        tags = settings.start == "tagger"
        # Tags are not of the unknown word.
        corpus = data.corpus.drop(data.vocabulary.unknown) if tags else data.corpus
        settings = data.fit_batch(settings, corpus.tokens, process)
        matches = Matches(corpus) if settings.positives == "worded" else None
        sampler = NegativeSampler(corpus, NEGATIVES, settings.seed, matches)
        loader = TrainLoader(
            corpus, data.store, corpus.tokens, settings, process.rank, process.ranks, sampler
        )

        # Model: stage 2's encoder and stage 1's word vectors.
        encoder = ExportedEncoder.read(settings.encoder)
        config = data.configure(settings, encoder.config.size, encoder.config.model.feature_length)
        config = replace(config, model=replace(config.model, tagger=tags))
        encoder.check_made_for(config, settings.data_dir)
        model = STAGE.build(config.model)
        model.query.set_words(data.words)
        encoder.load_into(model.item)

        # Frozen: the word vectors with their norm, and of the encoder all that gives regions their context.
        model.item.freeze_context()
        process.say(format_header(STAGE, settings, config, data.count(model), model, process))

        # Optimizer: of the encoder dense and dense_summary, at a rate of their own; then all the rest.
        # In epochs 0, 1, 2, … the rates are those times 1, 1, γ, γ², …
        encoder_group = {
            "params": list_trainable(model.item),
            "lr": settings.encoder_rate,
            "weight_decay": settings.weight_decay,
        }
        rest = [*list_trainable(model.query), *list_trainable(model.score)]
        optimizer = Adam([encoder_group, {"params": rest, "lr": settings.rate}], fused=True)

        def rate_factor(epoch: int) -> float:
            return settings.gamma ** max(0, epoch - 1)

        # Where valid chooses the epoch, it may choose the start, which is then epoch 0.
        keep_start = settings.use_epoch == "best"

        def compute_epoch_losses(scores: Scores, batch: Batch) -> dict[str, Tensor]:
            mean = epoch < settings.mean_epochs + keep_start
            return compute_losses(scores, batch, settings.margin, mean)

        trainer = Trainer(
            process, STAGE, model, compute_epoch_losses, optimizer, rate_factor, settings, config, keep_start
        )
        for epoch in trainer.epochs():
            for batch in trainer.batches(loader, epoch):
                trainer.step(batch)
            trainer.finish(epoch, lambda: data.score_valid(model, process.device))


if __name__ == "__main__":
    run_script(main)
