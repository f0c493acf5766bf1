"""What is fast gives what its plain twin in benchmarks/reference.py gives; and what is measured of both."""

import json
import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import model1.model
from benchmarks import arithmetic, device, inputs, jobs, reference, rehearsal
from benchmarks.__main__ import compare
from benchmarks.measure import Job, launch_throughput
from benchmarks.memory import count_activations
from kddcup import stages
from kddcup.config import ModelConfig
from kddcup.data.loader import TrainLoader
from kddcup.data.sampling import NegativeSampler
from kddcup.data.store import RegionStore
from kddcup.io.errors import UserError
from kddcup.rank.scoring import encode_candidates, score_encoded
from kddcup.rank.weights import CandidateScores, search_grid
from kddcup.table.ingest import Ingest
from kddcup.table.table import Table
from multilabel.criterion import compute_tagging_loss
from tests.conftest import call_main

CONFIG = ModelConfig(region_dim=16, width=8, vocabulary=600, ff=16, dropout=0.0, start=2, end=3)
CPU = torch.device("cpu")


def twins(stage: str, config: ModelConfig = CONFIG) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The project's model and its plain twin, of the same parameters."""
    return jobs.build_model(stage, config, plain=False), jobs.build_model(stage, config, plain=True)


@pytest.mark.parametrize("stage", list(jobs.LOSSES))
def test_losses_and_gradients_of_a_step(stage):
    batch = inputs.draw_batch(CONFIG, 12, negatives=stage != "multilabel")
    losses, gradients = [], []
    for model, compute_losses in zip(
        twins(stage), (jobs.LOSSES[stage], jobs.PLAIN_LOSSES[stage]), strict=True
    ):
        losses.append(compute_losses(model(batch), batch))
        sum(losses[-1].values()).backward()
        gradients.append(
            {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
        )
    torch.testing.assert_close(losses[0], losses[1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5, rtol=1e-4)


def test_heads_of_images():
    fast, plain = (model.item for model in twins("model1"))
    images = inputs.draw_images(np.random.default_rng(0), 20, CONFIG.region_dim)
    assert len(set(images.lengths.tolist())) > 1
    torch.testing.assert_close(fast(images), plain(images), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(fast(images, heads=1), plain(images)[:, :1], atol=1e-5, rtol=1e-5)


def test_hidden_states_of_words():
    fast, plain = (model.query for model in twins("model1"))
    queries = inputs.draw_queries(np.random.default_rng(0), 20, CONFIG.vocabulary)
    assert len(set(queries.lengths.tolist())) > 1
    torch.testing.assert_close(tuple(fast(queries)), tuple(plain(queries)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("elements", [1, 1 << 24], ids=["chunks", "one chunk"])
def test_scores_of_words_in_pairs_and_crosswise(elements, monkeypatch):
    monkeypatch.setattr(model1.model, "CROSS_ELEMENTS", elements)
    fast, plain = twins("model1")
    rng = np.random.default_rng(0)
    queries = inputs.draw_queries(rng, 20, CONFIG.vocabulary)
    words, heads = fast.query(queries), fast.item(inputs.draw_images(rng, 20, CONFIG.region_dim))
    expected = plain.score(words, heads)
    torch.testing.assert_close(fast.score(words, heads), expected, atol=1e-5, rtol=1e-5)
    cross = fast.score.cross(words, queries.lengths, heads)
    torch.testing.assert_close(cross, plain.score.cross(words, queries.lengths, heads), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(cross.diagonal(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("vocabulary", [600, 3000], ids=["all other words", "the hardest thousand"])
def test_the_tagging_loss(vocabulary):
    rng = np.random.default_rng(0)
    ids = inputs.draw_queries(rng, 12, vocabulary).ids
    ids[0, 1] = ids[0, 0]  # a word that comes twice counts once
    logits = torch.from_numpy(rng.normal(size=(12, vocabulary)).astype(np.float32))
    torch.testing.assert_close(compute_tagging_loss(logits, ids), reference.compute_tagging_loss(logits, ids))


@pytest.fixture
def table(tmp_path):
    inputs.write_table(tmp_path / "train.tsv", 200, CONFIG.region_dim)
    return tmp_path / "train.tsv"


def test_the_store_and_batches_from_it(table, tmp_path):
    Ingest(Table(table), tmp_path / "features", "float16", 1).run()
    reference.preprocess(table, tmp_path / "plain")
    store = RegionStore(tmp_path / "features")
    assert {int(path.stem) for path in (tmp_path / "plain").iterdir()} == set(store.product_ids.tolist())
    products = np.random.default_rng(0).permutation(store.product_ids)[:40]
    batch = store.gather(store.positions(products))
    features, boxes, lengths = reference.read_images(tmp_path / "plain", products.tolist())
    plain_features, plain_boxes, real = reference.pad(batch)
    assert torch.equal(features, plain_features)
    assert torch.equal(boxes, plain_boxes)
    assert torch.equal(lengths, real.sum(1))


@pytest.mark.parametrize("stage", ["model1", "model2"])
def test_scores_of_a_table(table, stage):
    fast, plain = (model.eval() for model in twins(stage))
    vocabulary = inputs.build_vocabulary()
    predictions = score_encoded(encode_candidates(table, fast, vocabulary, CONFIG.region_dim, CPU))
    expected = reference.score_table(table, plain, vocabulary, CPU)
    assert list(predictions) == list(expected)
    for query, candidates in predictions.items():
        scores = sorted(expected[query], reverse=True)
        np.testing.assert_allclose([score for _, score in candidates], scores, atol=1e-5)


def test_the_blend():
    *models, answers = inputs.draw_predictions(queries=20)
    candidates = CandidateScores.of(models, answers)
    weights = search_grid(candidates)
    expected = reference.best_weight(*models, answers)
    assert (weights[0], candidates.mean_ndcg(weights)) == pytest.approx(expected)
    assert 0 < weights[0] < 1


@pytest.mark.parametrize("stage", list(arithmetic.STEPS))
def test_a_step_does_little_more_than_the_least_arithmetic(stage):
    config = ModelConfig(region_dim=256, width=128, vocabulary=3000, ff=512, dropout=0.0)
    batch = inputs.draw_batch(config, 24, negatives=stage != "multilabel")
    model = jobs.build_model(stage, config, plain=False)
    with FlopCounterMode(display=False) as counter:
        sum(jobs.LOSSES[stage](model(batch), batch).values()).backward()
    least = arithmetic.STEPS[stage](config, batch)
    assert least < counter.get_total_flops() < 1.15 * least


@pytest.mark.parametrize("stage", list(arithmetic.SCORES))
def test_scores_take_at_least_the_least_arithmetic(stage):
    config, rng = ModelConfig(region_dim=256, width=128, vocabulary=3000, ff=512), np.random.default_rng(0)
    queries, images = inputs.draw_queries(rng, 4, 3000), inputs.draw_images(rng, 20, 256)
    owner = torch.arange(20) // 5
    model = jobs.build_model(stage, config, plain=False).eval()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model.score_candidates(queries, owner, model.encode_images(images))
    words = int(queries.lengths[owner].sum())
    assert arithmetic.SCORES[stage](config, images, queries, words) < counter.get_total_flops()


def test_every_stage_is_measured():
    assert list(arithmetic.STEPS) == list(reference.MODELS) == [stage.name for stage in stages.STAGES]
    assert list(arithmetic.SCORES) == [stage.name for stage in stages.list_matchers()]


def test_activations_are_what_the_backward_pass_needs_beside_the_parameters():
    layer, x = torch.nn.Linear(3, 2), torch.ones(5, 3)
    # The Linear keeps its input, the ReLU what it gives; of the sum only a shape is needed.
    assert count_activations(layer, lambda: layer(x).relu().sum()) == 4 * (5 * 3 + 5 * 2)


def test_a_comparison_has_both_sides_and_their_ratio():
    row = compare("blend", partial(jobs.blend, plain=False), partial(jobs.blend, plain=True), 1, lambda: 1e-3)
    assert row.ratio == row.reference_seconds / row.seconds
    assert row.limit_share == 1e-3 / row.seconds
    assert min(row.peak_mb, row.reference_peak_mb) > 10


def test_sides_that_differ_are_refused():
    with pytest.raises(AssertionError, match="mismatched"):
        compare("mismatched", partial(jobs.blend, plain=False), prepare_other_result, 1)


def prepare_other_result() -> Job:
    """A job that comes to something else than any blend."""
    return Job(lambda: None, lambda: [2.0, 2.0])


TINY = device.Scope(CONFIG, batch_size=8, side=16, scored_rows=40, products=300, seconds=0.001)


def test_without_a_gpu_one_line_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert call_main("benchmarks.__main__", "--device", "cuda", "--if_available").count("\n") == 1
    with pytest.raises(UserError, match="there is no GPU"):
        call_main("benchmarks.__main__", "--device", "cuda")


@pytest.mark.parametrize("precision", device.PRECISIONS)
def test_a_line_of_a_step_and_one_of_a_scoring_on_a_device(table, precision):
    step, score = partial(jobs.train_step, "model1", 8), partial(jobs.score, "model2", table)
    for work, job in (("step", step), ("scoring", score)):
        row = device.compare(work, precision, 8, job, CPU, TINY, limit=1e-6)
        assert row.difference < (0.1 if precision == "bf16" else 1e-5)
        assert row.limit_share == 1e-6 / row.ours.seconds
        cells = row.format().strip("| ").split(" | ")
        assert cells[:2] == [work, precision]
        assert cells[3] == f"{8 / row.ours.seconds:,.0f}"
        assert cells[10] == f"{row.reference.seconds / row.ours.seconds:.1f}"
        assert len(cells) == row.HEADER.count(" | ") + 1


def test_a_side_for_which_the_memory_does_not_suffice_leaves_the_other():
    def prepare(plain: bool, **_: object) -> Job:
        if plain:
            raise torch.OutOfMemoryError
        return Job(lambda: None, lambda: [1.0])

    row = device.compare("step", "bf16", 8, prepare, CPU, TINY, limit=1e-9)
    assert row.ours
    assert row.format().count("out of memory") == 1
    assert row.format().count("|") == row.HEADER.count("|")


def test_kernels_are_counted_where_there_are_some(monkeypatch):
    assert device.count_launches(lambda: torch.ones(3).sum(), CPU) == 0
    events = [("cudaLaunchKernel", 3), ("cuLaunchKernelEx", 2), ("cudaMemcpyAsync", 9)]

    class Profiler:
        def __init__(self, activities: list) -> None: ...

        def __enter__(self) -> "Profiler":
            return self

        def __exit__(self, *_: object) -> None: ...

        def key_averages(self) -> list:
            return [SimpleNamespace(key=key, count=count) for key, count in events]

    monkeypatch.setattr(device, "profile", Profiler)
    assert device.count_launches(list, CPU) == 5


@pytest.mark.parametrize("stage", list(device.RULES))
def test_a_made_up_store_is_trained_from(stage, tmp_path):
    store = device.write_store(tmp_path / "features", 1500, CONFIG.region_dim)
    assert len(store) == 2000  # pictures come again and again, all of them as often
    corpus = device.draw_corpus(1500, CONFIG.vocabulary)
    settings, rule = jobs.build_settings(stage, batch_size=50), device.RULES[stage]
    sampler = NegativeSampler(corpus, rule, 0) if rule else None
    loader = TrainLoader(corpus, store, corpus.tokens, settings, 0, 1, sampler)
    assert len(loader) == 30
    (batch,) = next(loader.epoch(0, CPU, 29))
    assert batch.images.features.shape[1] == CONFIG.region_dim
    assert (batch.negative_images is None) == (rule is None)


@pytest.mark.slow
def test_all_of_it_runs_on_a_cpu_at_a_small_size(tmp_path):
    out = tmp_path / "figures.json"
    printed = call_main("benchmarks.__main__", "--device", "cpu", "--size", "small", "--out", out)
    figures = json.loads(Path(out).read_text())
    assert [len(figures[name]) for name in ("rows", "waiting", "processes")] == [15, 9, 0]
    assert {(row["stage"], row["readers"]) for row in figures["waiting"]} == {
        (stage, readers) for stage in device.RULES for readers in (0, 1, 4)
    }
    assert sum(line.startswith("| model1 step, batch 16 | ") for line in printed.splitlines()) == 3


@pytest.mark.slow
def test_two_processes_print_a_line_for_each_stage_and_precision():
    flags = ("--size", "small", "--stages", "multilabel", "model2", "--precisions", "float32", "bf16")
    printed = launch_throughput(2, *flags)
    assert [(line["stage"], line["precision"], line["rows"]) for line in printed] == [
        (stage, precision, 32) for stage in ("multilabel", "model2") for precision in ("float32", "bf16")
    ]
    assert all(line["seconds"] > 0 for line in printed)


@pytest.mark.slow
def test_the_rehearsal_ends_with_a_submission_and_the_time_of_the_whole(tmp_path, capfd):
    folder = tmp_path / "work"
    printed = call_main("benchmarks.rehearsal", "--rows", 2000, "--folder", folder)
    assert printed.count("killed process") == 3
    assert capfd.readouterr().out.count("resuming") == 3
    assert re.search(r"the whole training on this device, reckoned for 3,000,000 rows: [\d,.]+ h", printed)
    submission = (folder / "resources" / "submission.csv").read_text().splitlines()
    assert len(submission) == 1 + 10


def test_a_rehearsal_that_cannot_be_is_refused_at_once(tmp_path, monkeypatch):
    (tmp_path / "here").touch()
    usage = SimpleNamespace(free=1 << 60)
    monkeypatch.setattr(rehearsal.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match="is not empty"):
        call_main("benchmarks.rehearsal", "--folder", tmp_path)
    with pytest.raises(UserError, match="--rows 10 do not fill"):
        call_main("benchmarks.rehearsal", "--rows", 10)
    usage.free = 10
    with pytest.raises(UserError, match="less than the 24 GB"):
        call_main("benchmarks.rehearsal", "--folder", tmp_path)


def test_the_time_of_a_training_worked_by_hand():
    training = rehearsal.Training(
        stage="model1",
        batch_size=150,
        epochs=6,
        speed=100.0,
        waiting=0.013,
        scoring=120.0,
        peak=3.25,
        checkpoint=760_000_000,
    )
    # 3 million rows take 30,000 s, and with the scoring 30,120 s; six times.
    assert rehearsal.format_training(training) == (
        "| model1 | 150 | 20,000 | 100.0 | 1.3% | 3.25 | 0.76 | 8.3 | 2.0 | 6 | 50.2 |"
    )
