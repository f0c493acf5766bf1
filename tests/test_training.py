"""Two processes train what one would, through the launchers that users start."""

import multiprocessing
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from multiprocessing import connection, reduction, resource_sharer
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

import kddcup.data.loader
from kddcup import stages
from kddcup.data.corpus import open_info
from kddcup.data.loader import TrainLoader, fit_batch_size
from kddcup.data.sampling import NegativeRule, NegativeSampler
from kddcup.data.store import RegionStore
from kddcup.io.errors import UserError
from kddcup.io.ragged import Ragged
from kddcup.train.data import TrainingData
from tests import small
from tests.conftest import call_main, run_script

CPU = torch.device("cpu")
RULE = NegativeRule(shared_group=True, from_all_share=0.0)


def loader(
    trained, *flags: str, rank: int = 0, ranks: int = 1, negatives: bool = True, **options: object
) -> TrainLoader:
    corpus, settings = open_info(trained / "data").corpus, small.settings("--epoch_steps", "0", *flags)
    sampler = NegativeSampler(corpus, RULE, settings.seed) if negatives else None
    store = RegionStore(trained / "data" / "features")
    return TrainLoader(corpus, store, corpus.tokens, settings, rank, ranks, sampler, **options)


def train(trained, stage: str, out, *flags: object) -> str:
    """Train a stage on the sample, by ``train.py``; gives what it printed."""
    folders = ["--data_dir", trained / "data", "--checkpoints_dir", out]
    folders += ["--encoder", trained / "encoder.pth"] if stage != "multilabel" else []
    return call_main(f"{stage}.train", *folders, *flags)


def read_checkpoint(folder: Path, epoch: int = 0) -> dict:
    return torch.load(folder / f"model-epoch{epoch}.pth", weights_only=True)


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


def test_an_epoch_by_product_takes_each_product_once_with_one_of_its_queries(trained):
    corpus = open_info(trained / "data").corpus
    products = np.unique(corpus.row_product)
    asked = {product: set(corpus.row_query[corpus.row_product == product].tolist()) for product in products}
    assert max(map(len, asked.values())) > 1
    flags = {"negatives": False, "by_product": True}
    batches = loader(trained, "--batch_size", "1", **flags)
    first, second = batches.rows(0).ravel(), batches.rows(1).ravel()
    for rows in (first, second):
        assert np.sort(corpus.row_product[rows]).tolist() == products.tolist()
    assert set(first) != set(second)
    assert len(set(first) | set(second)) > len(products)
    # One rank of two takes every other share.
    halves = [loader(trained, "--batch_size", "4", rank=rank, ranks=2, **flags).rows(1) for rank in (0, 1)]
    whole = loader(trained, "--batch_size", "8", **flags).rows(1)
    np.testing.assert_array_equal(np.concatenate(halves, axis=1), whole)


def test_labels_by_product_are_the_words_of_all_its_queries_and_the_caption_is_the_rows(trained):
    corpus = open_info(trained / "data").corpus
    batches = loader(trained, negatives=False, by_product=True)
    rows = np.bincount(corpus.row_product - corpus.row_product.min()).argmax() + corpus.row_product.min()
    rows = np.flatnonzero(corpus.row_product == rows)[:2]
    (batch,) = batches.batch(rows, 0)
    for place, row in enumerate(rows):
        queries = corpus.row_query[corpus.row_product == corpus.row_product[row]]
        assert len(set(queries)) > 1
        words = {int(word) for query in queries for word in corpus.tokens[query]}
        labels = batch.labels.ids[place].tolist()
        assert labels[: batch.labels.lengths[place]] == sorted(words)
        caption = batch.queries.ids[place, : batch.queries.lengths[place]].tolist()
        assert caption == corpus.tokens[corpus.row_query[row]].tolist()


def test_a_table_of_few_batches_is_swept_several_times_in_an_epoch(trained):
    once = loader(trained, "--batch_size", "64")
    assert 5 < len(once) < 20
    often = loader(trained, "--batch_size", "64", "--epoch_steps", str(2 * len(once) + 1))
    assert len(often) == len(often.rows(0)) == 3 * len(once)
    np.testing.assert_array_equal(often.rows(1), np.concatenate([once.rows(sweep) for sweep in (3, 4, 5)]))
    # The negatives of a row are those of its sweep, wherever the epoch is begun.
    step = len(once) + 2
    ((resumed,), *_), (expected,) = often.epoch(1, CPU, step), once.batch(often.rows(1)[step], 4)
    assert torch.equal(resumed.negative_queries.ids, expected.negative_queries.ids)
    assert np.array_equal(resumed.products, expected.products)
    assert len(loader(trained, "--batch_size", "64", "--epoch_steps", str(len(once)))) == len(once)


@pytest.mark.parametrize(("rows", "steps"), [(2, 50), (300, 54), (4_000, 125), (30_000, 937)])
@pytest.mark.parametrize("stage", stages.STAGES, ids=lambda stage: stage.name)
def test_epochs_follow_the_table(stage, rows, steps):
    recipe = stage.recipes["small"]
    corpus = mock.Mock(row_query=np.arange(rows), row_product=np.arange(rows))
    store = mock.MagicMock(positions=lambda products: products, __len__=lambda self: rows)
    tokens = Ragged(np.ones(rows, np.int32), np.arange(rows + 1))
    batch_size = fit_batch_size(recipe.batch_size, rows, 1, "small")
    settings = small.settings("--batch_size", str(batch_size), "--epoch_steps", str(recipe.epoch_steps))
    assert len(TrainLoader(corpus, store, tokens, settings, 0, 1)) == steps
    assert recipe.use_epoch == "best"
    assert recipe.patience < recipe.epochs


def test_a_query_occurs_once_in_a_batch_with_negatives_and_as_often_as_drawn_without(trained):
    corpus = open_info(trained / "data").corpus
    busiest = np.bincount(corpus.row_query).argmax()
    rows = np.flatnonzero(corpus.row_query == busiest)
    assert len(rows) > 1
    other = np.flatnonzero(corpus.row_query != busiest)[:1]
    (batch,) = loader(trained).batch(np.concatenate([rows, other]), 0)
    parts = (batch, batch.images, batch.negative_queries, batch.negative_images)
    assert [len(part) for part in parts] == [2] * 4
    (tagging,) = loader(trained, negatives=False).batch(np.concatenate([rows, other]), 0)
    assert (len(tagging), tagging.negative_queries) == (len(rows) + 1, None)


def test_rows_without_words_are_left_out(trained):
    corpus = open_info(trained / "data").corpus
    start, end = corpus.tokens.offsets[0], corpus.tokens.offsets[1]
    corpus.tokens.values[start:end] = 999
    store = RegionStore(trained / "data" / "features")
    silent = corpus.tokens.drop(999)
    settings = small.settings("--batch_size", "1", "--epoch_steps", "0")
    found = TrainLoader(corpus, store, silent, settings, 0, 1).rows(0)
    assert np.sort(found.ravel()).tolist() == np.flatnonzero(corpus.row_query != 0).tolist()


@pytest.mark.parametrize("workers", ["0", "2"])
def test_batches_are_prefetched_in_order_by_a_thread_or_by_workers(trained, workers):
    batches = loader(trained, "--workers", workers)
    rows = batches.rows(3)
    for (batch,), expected in zip(batches.epoch(3, CPU), rows[:3], strict=False):
        (alone,) = batches.batch(expected, 3)
        assert torch.equal(batch.queries.ids, alone.queries.ids)
        assert torch.equal(batch.images.features, alone.images.features)


def kill(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def heedless() -> Iterator[None]:
    """As in training: no DataLoader in the main thread has that thread hear of the end of any child."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGCHLD, before)


WAYS_TO_DIE = {
    "while it reads": kill,
    "by an exit": lambda: os._exit(1),
    "before it is trusted": lambda: setattr(connection, "deliver_challenge", kill),
    "before a batch's memory is handed over": lambda: setattr(reduction, "send_handle", kill),
}
"""What a reading process does as it reads a batch."""


def read_with(monkeypatch, act: Callable[[], object]) -> None:
    """Have reading processes act so before they read a batch, and be looked after in shorter turns."""
    read = TrainLoader.batch

    def act_and_read(self: TrainLoader, rows: np.ndarray, epoch: int) -> list:
        act()
        return read(self, rows, epoch)

    monkeypatch.setattr(TrainLoader, "batch", act_and_read)
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.1,))


@pytest.mark.usefixtures("heedless")
@pytest.mark.parametrize("way", WAYS_TO_DIE)
def test_a_reading_process_that_dies_ends_in_one_line(trained, monkeypatch, way):
    read_with(monkeypatch, WAYS_TO_DIE[way])
    with pytest.raises(UserError, match="reads batches was killed .* fewer --workers"):
        list(loader(trained, "--workers", "1").epoch(0, CPU))


@pytest.mark.usefixtures("heedless")
def test_a_reading_process_that_is_dead_when_its_batch_is_fetched_ends_in_one_line(trained, monkeypatch):
    connect, others = resource_sharer._resource_sharer.get_connection, set(multiprocessing.active_children())

    def connect_to_the_dead(ident: tuple) -> connection.Connection:
        (child,) = set(multiprocessing.active_children()) - others
        child.kill()
        child.join()
        return connect(ident)

    monkeypatch.setattr(resource_sharer._resource_sharer, "get_connection", connect_to_the_dead)
    with pytest.raises(UserError, match="reads batches was killed .* fewer --workers"):
        list(loader(trained, "--workers", "1").epoch(0, CPU))


def test_an_error_of_a_reading_process_is_not_taken_for_its_death(trained, monkeypatch):
    monkeypatch.setattr(kddcup.data.loader, "DEATH_SECONDS", 0.1)
    read_with(monkeypatch, lambda: os.stat("absent"))
    with pytest.raises(FileNotFoundError, match="Original Traceback"):
        list(loader(trained, "--workers", "1").epoch(0, CPU))


def test_too_few_rows_for_a_batch_are_refused(trained):
    with pytest.raises(UserError, match="lower --batch_size"):
        loader(trained, "--batch_size", "100000")


@pytest.fixture(scope="module")
def decayed(trained, tmp_path_factory) -> dict[str, tuple[str, list[dict]]]:
    """Per stage, what three epochs at rates of their own print, and their checkpoints."""
    found = {}
    for stage in ("multilabel", "model1", "model2"):
        out = tmp_path_factory.mktemp(stage)
        flags = ["--rate", 0.1, "--gamma", 0.5, "--weight_decay", 0.2, "--batch_size", 300]
        flags += ["--encoder_rate", 0.01] if stage != "multilabel" else []
        flags += ["--epochs", 3, "--use_epoch", 0, "--epoch_steps", 0]
        printed = train(trained, stage, out, *flags)
        found[stage] = printed, [read_checkpoint(out, epoch) for epoch in range(3)]
    return found


@pytest.mark.parametrize(
    ("stage", "rates", "decays"),
    [
        ("multilabel", ["item+rnn+caption 0.1"] * 2 + ["item+rnn+caption 0.05"], [0.2]),
        ("model1", ["item 0.01, query+score 0.1"] * 2 + ["item 0.005, query+score 0.05"], [0.2, 0]),
        ("model2", ["item+score 0.01, score 0.1"] * 2 + ["item+score 0.005, score 0.05"], [0.2, 0]),
    ],
)
def test_rates_and_weight_decay_of_a_stages_groups(decayed, stage, rates, decays):
    printed, checkpoints = decayed[stage]
    assert re.findall(r"  rate (.*?)  ", printed) == rates
    assert [group["weight_decay"] for group in checkpoints[0]["optimizer"]["param_groups"]] == decays


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_weight_decay_is_part_of_the_gradient_or_shrinks_the_weights(trained, tmp_path, name):
    train(trained, "multilabel", tmp_path, "--optimizer", name, "--weight_decay", 0.5, "--max_steps", 1)
    (group,) = read_checkpoint(tmp_path)["optimizer"]["param_groups"]
    assert (group["weight_decay"], group["decoupled_weight_decay"]) == (0.5, name == "adamw")


@pytest.mark.parametrize("stage", ["multilabel", "model1", "model2"])
def test_training_moves_what_is_trained_and_nothing_else(decayed, stage):
    _, (before, _, after) = decayed[stage]
    parts = stages.find(stage).parts or ("model",)
    still = {
        f"{part}.{name}"
        for part in parts
        for name, value in before[part].items()
        if torch.equal(value, after[part][name])
    }
    frozen = {"multilabel": ["model.embed"], "model1": ["query.embed", "query.norm"]}
    context = [f"item.{name}" for name in ("box_encoding", "norm", "encoders", "activations", "ffs")]
    roots = frozen.get(stage, ["score.embed", "score.norm"]) + (context if stage != "multilabel" else [])
    names = [f"{part}.{name}" for part in parts for name in before[part]]
    assert still == {name for name in names if name.startswith(tuple(f"{root}." for root in roots))}


@pytest.mark.parametrize("stage", ["multilabel", "model2"])
def test_micro_batches_make_the_update_of_their_batch(trained, tmp_path, stage):
    flags = ["--dropout", 0, "--batch_size", 20, "--max_steps", 1, "--accumulate"]
    printed = {count: train(trained, stage, tmp_path / str(count), *flags, count) for count in (1, 3)}
    losses = [re.search(r"epoch 0: (.*)  valid", text)[1] for text in printed.values()]
    numbers = [[float(number) for number in re.findall(r"\d+\.\d+", line)] for line in losses]
    assert numbers[0] == pytest.approx(numbers[1], abs=2e-4)
    # Of one step: the gradients.
    moments = [
        [state["exp_avg"] for state in read_checkpoint(tmp_path / count)["optimizer"]["state"].values()]
        for count in ("1", "3")
    ]
    torch.testing.assert_close(*moments, atol=1e-6, rtol=1e-4)


def test_a_step_in_bf16_changes_float32_parameters(trained, tmp_path):
    train(trained, "model1", tmp_path, "--precision", "bf16", "--max_steps", 1, "--use_epoch", 0)
    item, before = (
        read["item"]
        for read in (read_checkpoint(tmp_path), torch.load(trained / "encoder.pth", weights_only=True))
    )
    assert not torch.equal(item["dense.0.weight"], before["dense.0.weight"])
    assert {value.dtype for value in item.values()} == {torch.float32}


def test_a_row_gets_the_same_negatives_in_one_process_and_in_two(trained):
    whole = loader(trained, "--batch_size", "16")
    halves = [loader(trained, "--batch_size", "8", rank=rank, ranks=2) for rank in (0, 1)]
    for epoch in (0, 1):
        rows = whole.rows(epoch)[0]
        alone = NegativeSampler(open_info(trained / "data").corpus, RULE, 2020)
        expected = np.stack(alone.draw(rows, epoch))
        parts = [np.stack(alone.draw(half.rows(epoch)[0], epoch)) for half in halves]
        np.testing.assert_array_equal(np.concatenate(parts, axis=1), expected)


@pytest.mark.parametrize(("flags", "count"), [((), 9), (("--stop_at_use_epoch",), 3)])
def test_the_last_epoch_is_the_one_to_use_where_asked(flags, count):
    settings = small.settings("--epochs", "9", "--use_epoch", "2", *flags)
    trainer = small.trainer(small.MULTILABEL.build(small.CONFIG), settings)
    assert list(trainer.epochs()) == list(range(count))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda config: config["model"].update(region_dim=999),
            "region_dim 999, not 32.*run stage 2",
        ),
        (lambda config: config["vocabulary"]["tokens"].append("more"), "another vocabulary"),
    ],
)
def test_an_encoder_of_other_data_is_refused(trained, tmp_path, change, expected):
    content = torch.load(trained / "encoder.pth", weights_only=True)
    change(content["config"])
    torch.save(content, tmp_path / "encoder.pth")
    with pytest.raises(UserError, match=expected):
        train(trained, "model1", tmp_path, "--encoder", tmp_path / "encoder.pth")


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


def test_valid_queries_that_a_model_cannot_read_are_counted_at_the_start_of_a_run(trained, tmp_path):
    shutil.copytree(trained / "data", tmp_path / "data")
    table = tmp_path / "data" / "valid" / "valid.tsv"
    header, *rows = [line.split("\t") for line in table.read_text().splitlines()]
    for row in rows:
        if row[8] == rows[0][8]:
            row[7] = "of the"
        elif row[8] == rows[-1][8]:
            row[7] = "unheard of"
    table.write_text("".join("\t".join(row) + "\n" for row in [header, *rows]))
    flags = ["--data_dir", tmp_path / "data", "--max_steps", 1]
    # Stage 2 drops the unknown word, and so does a matcher that starts as it.
    for stage, start, count in (("multilabel", [], 2), ("model1", ["--start", "encoder"], 1)):
        said = train(trained, stage, tmp_path / stage, *flags, *start)
        assert f"valid queries without words {count}\n" in said


@pytest.mark.parametrize(
    ("size", "batch_size", "rows", "ranks", "expected"),
    [
        ("small", 32, 1000, 1, 32),
        ("small", 32, 1000, 2, 16),
        ("small", 32, 21, 2, 10),
        ("small", 1, 1000, 2, 1),
        ("full", 200, 1000, 2, 200),
        ("full", 200, 21, 2, 200),
    ],
)
def test_processes_share_a_small_models_batch_which_no_table_is_too_small_for(
    size, batch_size, rows, ranks, expected
):
    assert fit_batch_size(batch_size, rows, ranks, size) == expected
