"""Stage 2: pretrain the image encoder by tagging and captioning.

Reads DATA/features and DATA/info; writes a checkpoint and scores valid after every epoch. Examples, in this
folder:

    python train.py
    torchrun --nproc_per_node=2 train.py --devices 0 1
"""

from kddcup.config import PretrainSettings, parse_settings
from kddcup.corpus import told_size
from kddcup.errors import run_script
from kddcup.loader import TrainLoader
from kddcup.log import started
from kddcup.processes import launch
from kddcup.training import Trainer, TrainingData
from kddcup.tsv import Table
from multilabel.description import describe, first_products
from multilabel.model import MultiLabelClassifier

DESCRIBED = 8
"""Products of the valid table whose tags and captions TensorBoard shows epoch by epoch."""


def parameter_groups(model: MultiLabelClassifier, settings: PretrainSettings) -> list[dict]:
    """Adam's one group: all but the word vectors."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [{"params": trained, "lr": settings.rate, "weight_decay": settings.weight_decay}]


def main() -> None:
    """Train."""
    settings = parse_settings(
        PretrainSettings,
        __doc__,
        "multilabel",
        lambda settings: settings.size or told_size(settings.data_dir),
    )
    with launch(settings) as process:
        data = TrainingData.open(settings.data_dir)
        corpus, vocabulary = data.info.corpus, data.info.vocabulary
        config = data.config(settings, settings.size or told_size(settings.data_dir))
        model = MultiLabelClassifier(config.model, vocabulary.start, vocabulary.end)
        model.set_words(data.info.words)
        tokens = corpus.tokens.without(vocabulary.unknown)
        loader = TrainLoader(
            corpus, data.store, tokens, settings, process.rank, process.ranks, accumulate=settings.accumulate
        )
        process.say(started("multilabel", settings, config, data.counts(), model, process))
        trainer = Trainer(
            process, model, parameter_groups(model, settings), {"model": model}, settings, config
        )
        described = first_products(Table(data.valid.table), DESCRIBED) if process.is_main else []

        def score() -> float:
            return data.valid_ndcg(model, vocabulary.encode_known, process.device)

        def texts() -> dict[str, str]:
            return {
                f"product {row.product_id}": describe(row, model, vocabulary, process.device)
                for row in described
            }

        for epoch in trainer.epochs():
            trainer.steps(epoch, loader)
            trainer.finish(epoch, score, texts)


if __name__ == "__main__":
    run_script(main)
