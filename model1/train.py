"""Stage 3: train model1, which matches each word of the query with the image.

Reads DATA/features, DATA/info and the encoder of stage 2; writes a checkpoint and scores valid after every
epoch. The hardest negatives are mined within a batch, so that micro-batches would make another loss: there is
no --accumulate here as in stages 2 and 4. Examples, in this folder:

    python train.py
    python -u -m torch.distributed.launch --nproc_per_node=2 train.py --devices 0 1
"""

from kddcup.errors import run_script
from kddcup.log import started
from kddcup.matching import MatcherData, matcher_settings
from kddcup.processes import launch
from kddcup.sampling import Toss
from kddcup.training import Trainer
from model1.model import WordImageModel

TOSS = Toss(once=True, cluster_from_all=0.0)


def main() -> None:
    """Train."""
    settings = matcher_settings("model1", __doc__)
    with launch(settings) as process:
        made = MatcherData.open(settings, process)
        model = WordImageModel(made.config.model)
        model.query.set_words(made.data.info.words)
        made.load_encoder(model.item)
        loader = made.loader(TOSS)
        process.say(started("model1", settings, made.config, made.data.counts(), model, process))
        parts = dict(model.named_children())
        trainer = Trainer(process, model, made.parameter_groups(model), parts, settings, made.config)
        for epoch in trainer.epochs():
            trainer.steps(epoch, loader)
            trainer.finish(epoch, lambda: made.valid_ndcg(model))


if __name__ == "__main__":
    run_script(main)
