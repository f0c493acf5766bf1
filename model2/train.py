"""Stage 4: train model2, which matches the whole sentence with the image.

Reads DATA/features, DATA/info and the encoder of stage 2; writes a checkpoint and scores valid after every
epoch. Examples, in this folder:

    python train.py
    python -u -m torch.distributed.launch --nproc_per_node=2 train.py --devices 0 1
"""

from dataclasses import dataclass, replace
from typing import Literal

from jsonargparse.typing import PositiveInt
from torch.optim import Adam

from kddcup import stages
from kddcup.cli import parse_settings
from kddcup.config import MatcherSettings
from kddcup.data.loader import TrainLoader
from kddcup.data.sampling import Matches, NegativeRule, NegativeSampler
from kddcup.io.errors import run_script
from kddcup.nn.words import list_trainable
from kddcup.train.checkpoint import ExportedEncoder
from kddcup.train.data import TrainingData
from kddcup.train.launch import launch
from kddcup.train.log import format_header
from kddcup.train.trainer import Trainer
from model2.criterion import compute_losses

STAGE = stages.find("model2")
NEGATIVES = NegativeRule(shared_group=False, from_all_share=0.5)


@dataclass
class Model2Settings(MatcherSettings):
    """Stage 4.

    Args:
        start: what the model starts from: stage 2's encoder, or its captioner too, whose log probability of
            the query the logit then is, scaled, with a correction that starts at 0.
        accumulate: micro-batches that a batch is computed in, one after the other, to save memory; the
            update is that of the whole batch.
    """

    start: Literal["encoder", "captioner"] = "encoder"
    accumulate: PositiveInt = 1


def main() -> None:
    """Train."""
    settings = parse_settings(
        Model2Settings, __doc__, STAGE.recipes, lambda given: ExportedEncoder.read(given.encoder).config.size
    )
    with launch(settings) as process:
        # Data: rows of the table, each with a negative query and a negative image.
        data = TrainingData.open(settings.data_dir)
        captions = settings.start == "captioner"
        # The captioner does not read the unknown word.
        corpus = data.corpus.drop(data.vocabulary.unknown) if captions else data.corpus
        settings = data.fit_batch(settings, corpus.tokens, process)
        matches = Matches(corpus) if settings.positives == "worded" else None
        sampler = NegativeSampler(corpus, NEGATIVES, settings.seed, matches)
        loader = TrainLoader(
            corpus,
            data.store,
            corpus.tokens,
            settings,
            process.rank,
            process.ranks,
            sampler,
            settings.accumulate,
        )

        # Model: stage 2's encoder, perhaps its captioner, and stage 1's word vectors.
        encoder = ExportedEncoder.read(settings.encoder)
        config = data.configure(settings, encoder.config.size, encoder.config.model.feature_length)
        config = replace(config, model=replace(config.model, captioner=captions))
        encoder.check_made_for(config, settings.data_dir)
        model = STAGE.build(config.model)
        model.score.set_words(data.words)
        encoder.load_into(model.item)
        if captions:
            encoder.load_captioner_into(model.score.captioner)

        # Frozen: the word vectors with their norm, and of the encoder all that gives regions their context.
        model.item.freeze_context()
        process.say(format_header(STAGE, settings, config, data.count(model), model, process))

        # Optimizer: of the encoder dense and dense_summary, and the captioner, at a rate of their own; then
        # all else. In epochs 0, 1, 2, … the rates are those times 1, 1, γ, γ², …
        pretrained = list_trainable(model.item)
        if captions:
            pretrained += list_trainable(model.score.captioner)
        encoder_group = {
            "params": pretrained,
            "lr": settings.encoder_rate,
            "weight_decay": settings.weight_decay,
        }
        known = set(pretrained)
        rest = [parameter for parameter in list_trainable(model.score) if parameter not in known]
        optimizer = Adam([encoder_group, {"params": rest, "lr": settings.rate}], fused=True)

        def rate_factor(epoch: int) -> float:
            return settings.gamma ** max(0, epoch - 1)

        # Where valid chooses the epoch, it may choose the start, which is then epoch 0.
        keep_start = settings.use_epoch == "best"
        trainer = Trainer(
            process, STAGE, model, compute_losses, optimizer, rate_factor, settings, config, keep_start
        )
        for epoch in trainer.epochs():
            for batch in trainer.batches(loader, epoch):
                trainer.step(batch)
            trainer.finish(epoch, lambda: data.score_valid(model, process.device))


if __name__ == "__main__":
    run_script(main)
