"""Two processes train what one would, through the launchers that users start."""

import multiprocessing
import os
import shutil
import signal

import numpy as np
import pytest
import torch
from torch import nn

from kddcup.cli import parse_settings
from kddcup.config import MatcherSettings, PretrainSettings
from kddcup.data.batch import Batch
from kddcup.data.corpus import open_info
from kddcup.data.loader import TrainLoader
from kddcup.data.sampling import NegativeSampler, Toss
from kddcup.data.store import RegionStore
from kddcup.io.errors import UserError
from kddcup.train.checkpoint import RunConfig
from kddcup.train.data import TrainingData
from kddcup.train.matching import MatcherData
from kddcup.train.processes import Process
from kddcup.train.trainer import Trainer
from model1.model import WordImageModel
from model2.model import SentenceImageModel
from multilabel.model import MultiLabelClassifier
from multilabel.train import parameter_groups
from tests import small
from tests.conftest import run_script

CPU = torch.device("cpu")
TOSS = Toss(once=True, cluster_from_all=0.0)


def settings(trained, *flags: str) -> MatcherSettings:
    told = ["--data_dir", str(trained / "data"), "--encoder", str(trained / "encoder.pth"), *flags]
    return parse_settings(MatcherSettings, None, "model1", lambda _: "small", told)


def loader(trained, *flags: str, rank: int = 0, ranks: int = 1, negatives: bool = True) -> TrainLoader:
    corpus, told = open_info(trained / "data").corpus, settings(trained, *flags)
    sampler = NegativeSampler(corpus, TOSS, told.seed) if negatives else None
    store = RegionStore(trained / "data" / "features")
    return TrainLoader(corpus, store, corpus.tokens, told, rank, ranks, sampler)


@pytest.mark.parametrize("stage", ["model1", "model2"])
def test_a_step_of_two_processes_is_the_mean_of_what_one_finds_on_both_halves(trained, stage, tmp_path):
    flags = [stage, str(trained / "data"), str(trained / "encoder.pth"), str(tmp_path)]
    run_script(".", "-m", "tests.one_step", *flags).check_returncode()
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "tests.one_step"]
    run_script(".", *launcher, *flags).check_returncode()
    halves = [torch.load(tmp_path / f"half{rank}.pt", weights_only=True) for rank in (0, 1)]
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    for name in halves[0]["losses"]:
        alone = (halves[0]["losses"][name] + halves[1]["losses"][name]) / 2
        together = (ranks[0]["losses"][name] + ranks[1]["losses"][name]) / 2
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    names = halves[0]["gradients"].keys()
    assert any(name.startswith("item.dense.") for name in names)
    for name in names:
        alone = (halves[0]["gradients"][name] + halves[1]["gradients"][name]) / 2
        assert not torch.equal(halves[0]["gradients"][name], halves[1]["gradients"][name])
        for rank in ranks:
            torch.testing.assert_close(rank["gradients"][name], alone, atol=1e-5, rtol=0)


def test_ranks_see_disjoint_rows_which_together_are_those_of_one_process(trained):
    halves = [loader(trained, "--batch_size", "8", rank=rank, ranks=2).rows(0) for rank in (0, 1)]
    whole = loader(trained, "--batch_size", "16").rows(0)
    np.testing.assert_array_equal(np.concatenate(halves, axis=1), whole)
    assert len(np.unique(whole)) == whole.size


def test_every_epoch_has_an_order_of_its_own_and_a_seed_repeats_it(trained):
    first, again, second = (loader(trained).rows(epoch) for epoch in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, loader(trained, "--seed", "1").rows(0))


def test_a_query_occurs_once_in_a_batch_with_negatives_and_as_often_as_drawn_without(trained):
    corpus = open_info(trained / "data").corpus
    busiest = np.bincount(corpus.row_query).argmax()
    rows = np.flatnonzero(corpus.row_query == busiest)
    assert len(rows) > 1
    other = np.flatnonzero(corpus.row_query != busiest)[:1]
    batch = loader(trained).batch(np.concatenate([rows, other]), 0)[0]
    assert len(batch.queries) == len(batch.images) == 4
    tagging = loader(trained, negatives=False).batch(np.concatenate([rows, other]), 0)[0]
    assert len(tagging.queries) == len(rows) + 1


def test_rows_without_words_are_left_out(trained):
    corpus = open_info(trained / "data").corpus
    start, end = corpus.tokens.offsets[0], corpus.tokens.offsets[1]
    corpus.tokens.values[start:end] = 999
    store = RegionStore(trained / "data" / "features")
    silent = corpus.tokens.drop(999)
    found = TrainLoader(corpus, store, silent, settings(trained, "--batch_size", "1"), 0, 1)
    assert set(np.flatnonzero(corpus.row_query == 0)) == set(range(len(corpus.row_query))) - set(
        found.rows(0).ravel().tolist()
    )


@pytest.mark.parametrize("workers", ["0", "2"])
def test_batches_are_prefetched_in_order_by_a_thread_or_by_workers(trained, workers):
    told = loader(trained, "--workers", workers)
    rows = told.rows(3)
    for (batch,), expected in zip(told.epoch(3, CPU), rows[:3], strict=False):
        (alone,) = told.batch(expected, 3)
        assert torch.equal(batch.queries.ids, alone.queries.ids)
        assert torch.equal(batch.images.features, alone.images.features)


def test_a_reading_process_that_is_killed_ends_in_one_line(trained):
    others = multiprocessing.active_children()
    batches = loader(trained, "--workers", "1", "--batch_size", "2").epoch(0, torch.device("cpu"))
    next(batches)
    (child,) = set(multiprocessing.active_children()) - set(others)
    os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(UserError, match="reads batches was killed .* fewer --workers"):
        list(batches)


def test_too_few_rows_for_a_batch_are_refused(trained):
    with pytest.raises(UserError, match="lower --batch_size"):
        loader(trained, "--batch_size", "100000")


def matcher(trained, build, *flags: str) -> tuple[MatcherData, Trainer]:
    told = settings(trained, *flags)
    made = MatcherData.open(told, Process(0, 1, CPU))
    model = build(made.config.model)
    made.load_encoder(model.item)
    return made, Trainer(made.process, model, made.parameter_groups(model), {}, told, made.config)


def rates(trainer: Trainer, batch: list[Batch]) -> list[list[float]]:
    """Of each group, in epochs 0, 1 and 2."""
    found = []
    for epoch in range(3):
        trainer.steps(epoch, small.Batches([batch]))
        found.append([group["lr"] for group in trainer.optimizer.param_groups])
    return found


def moved(trainer: Trainer, batch: list[Batch]) -> set[str]:
    """The modules whose parameters a step changes, by the first two parts of their names."""
    before = {name: value.clone() for name, value in trainer.module.state_dict().items()}
    trainer.step(batch)
    after = trainer.module.state_dict()
    return {".".join(name.split(".")[:2]) for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("build", [WordImageModel, SentenceImageModel])
def test_rates_and_weight_decay_of_the_matchers_groups(trained, build):
    flags = ["--rate", "0.1", "--encoder_rate", "0.01", "--gamma", "0.5", "--weight_decay", "0.2"]
    made, trainer = matcher(trained, build, *flags)
    assert rates(trainer, made.loader(TOSS).batch(np.arange(4), 0)) == [
        [0.01, 0.1],
        [0.01, 0.1],
        [0.005, 0.05],
    ]
    assert [group["weight_decay"] for group in trainer.optimizer.param_groups] == [0.2, 0]
    names = {id(one): name.split(".")[0] for name, one in trainer.module.named_parameters()}
    image, rest = ({names[id(one)] for one in group["params"]} for group in trainer.optimizer.param_groups)
    assert image == {"item"}
    assert "item" not in rest


@pytest.mark.parametrize(
    ("build", "parts"),
    [
        (WordImageModel, {"query.rnn", "score.dense_summary"}),
        (SentenceImageModel, {"score.rnn", "score.dense"}),
    ],
)
def test_a_step_of_a_matcher_moves_what_is_trained_and_nothing_else(trained, build, parts):
    made, trainer = matcher(trained, build)
    batch = made.loader(TOSS).batch(np.arange(8), 0)
    assert moved(trainer, batch) == parts | {"item.dense", "item.dense_summary"}


@pytest.mark.parametrize("stage", ["multilabel", "model2"])
def test_micro_batches_make_the_update_of_the_whole_batch(trained, stage):
    updates = []
    for accumulate in (1, 3):
        torch.manual_seed(0)
        told = settings(trained, "--dropout", "0")
        made = MatcherData.open(told, Process(0, 1, CPU))
        if stage == "model2":
            model, batches = SentenceImageModel(made.config.model), made.loader(TOSS, accumulate)
            made.load_encoder(model.item)
        else:
            model = MultiLabelClassifier(made.config.model, 2, 3)
            model.set_words(made.data.info.words)
            corpus, store = made.data.info.corpus, made.data.store
            batches = TrainLoader(corpus, store, corpus.tokens, told, 0, 1, accumulate=accumulate)
        trainer = Trainer(made.process, model, made.parameter_groups(model), {}, told, made.config)
        batch = batches.batch(np.arange(20), 0)
        assert len(batch) == accumulate
        losses = trainer.step(batch)
        gradients = [one.grad for one in model.parameters() if one.grad is not None]
        updates.append((losses, gradients, np.sort(np.concatenate([part.products for part in batch]))))
    torch.testing.assert_close(updates[0][0], updates[1][0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(updates[0][1], updates[1][1], atol=1e-5, rtol=1e-4)
    np.testing.assert_array_equal(updates[0][2], updates[1][2])


def test_a_step_in_bf16_changes_float32_parameters(trained):
    made, trainer = matcher(trained, WordImageModel, "--precision", "bf16")
    batch = made.loader(TOSS).batch(np.arange(8), 0)
    assert "item.dense" in moved(trainer, batch)
    assert {one.dtype for one in trainer.module.parameters()} == {torch.float32}


def test_stage_2_trains_all_but_the_word_vectors_at_one_rate(trained):
    told = parse_settings(
        PretrainSettings, None, "multilabel", lambda _: "small", ["--rate", "0.1", "--gamma", "0.5"]
    )
    data = TrainingData.open(str(trained / "data"))
    config = data.config(told, "small")
    vocabulary = data.info.vocabulary
    model = MultiLabelClassifier(config.model, vocabulary.start, vocabulary.end)
    trainer = Trainer(Process(0, 1, CPU), model, parameter_groups(model, told), {}, told, config)
    batch = loader(trained, negatives=False).batch(np.arange(8), 0)
    encoder = {f"item.{name}" for name, _ in model.item.named_children()}
    assert moved(trainer, batch) == encoder | {"rnn.weight_ih_l0", "rnn.weight_hh_l0", "rnn.bias_ih_l0"} | {
        *("rnn.bias_hh_l0", "caption.0", "caption.1", "caption.3")
    }
    assert rates(trainer, batch) == [[0.1], [0.1], [0.05]]
    assert [group["weight_decay"] for group in trainer.optimizer.param_groups] == [1e-6]


def test_a_row_gets_the_same_negatives_in_one_process_and_in_two(trained):
    whole = loader(trained, "--batch_size", "16")
    halves = [loader(trained, "--batch_size", "8", rank=rank, ranks=2) for rank in (0, 1)]
    for epoch in (0, 1):
        rows = whole.rows(epoch)[0]
        alone = NegativeSampler(open_info(trained / "data").corpus, TOSS, 2020)
        expected = np.stack(alone.draw(rows, epoch))
        parts = [np.stack(alone.draw(half.rows(epoch)[0], epoch)) for half in halves]
        np.testing.assert_array_equal(np.concatenate(parts, axis=1), expected)


def test_the_last_epoch_is_the_one_to_use_where_asked(trained):
    for flags, count in ((["--stop_at_use_epoch"], 3), ([], 9)):
        told = settings(trained, "--epochs", "9", "--use_epoch", "2", *flags)
        module = nn.Linear(1, 1)
        trainer = Trainer(
            Process(0, 1, CPU), module, [{"params": module.parameters()}], {}, told, RunConfig()
        )
        assert len(trainer.epochs()) == count


def test_an_encoder_of_other_data_is_refused(trained, tmp_path):
    content = torch.load(trained / "encoder.pth", weights_only=True)
    content["config"]["model"]["region_dim"] = 999
    torch.save(content, tmp_path / "encoder.pth")
    told = settings(trained, "--encoder", str(tmp_path / "encoder.pth"))
    with pytest.raises(UserError, match="run stage 2 on this data"):
        MatcherData.open(told, Process(0, 1, CPU))


def test_info_and_features_of_different_tables_are_refused(trained, tmp_path):
    shutil.copytree(trained / "data", tmp_path / "data")
    ids = tmp_path / "data" / "features" / "product_ids.npy"
    np.save(ids, np.load(ids) + 1)
    with pytest.raises(UserError, match="are of different tables: make both with 'python preprocess"):
        TrainingData.open(str(tmp_path / "data"))


def test_valid_answers_that_do_not_fit_are_refused_before_the_first_epoch(trained, tmp_path):
    shutil.copytree(trained / "data", tmp_path / "data")
    (tmp_path / "data" / "valid" / "valid_answer.json").write_text('{"777": [1]}')
    with pytest.raises(UserError, match=r"valid\.tsv lacks query 777"):
        TrainingData.open(str(tmp_path / "data"))


def test_an_encoder_with_another_vocabulary_of_the_same_size_is_refused(trained, tmp_path):
    content = torch.load(trained / "encoder.pth", weights_only=True)
    content["config"]["vocabulary"]["tokens"][-1] = "another"
    torch.save(content, tmp_path / "encoder.pth")
    told = settings(trained, "--encoder", str(tmp_path / "encoder.pth"))
    with pytest.raises(UserError, match="another vocabulary"):
        MatcherData.open(told, Process(0, 1, CPU))
