"""The reference that the benchmarks compare with gives what the project gives."""

from functools import partial

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import model1.model
import model2.model
import multilabel.model
from benchmarks import arithmetic, inputs, reference, works
from benchmarks.__main__ import compare
from benchmarks.measure import Job
from kddcup.config import ModelConfig
from kddcup.data.store import RegionStore
from kddcup.rank.blending import best_weight
from kddcup.rank.scoring import score_table
from kddcup.table.ingest import Ingest
from kddcup.table.table import Table

CONFIG = ModelConfig(region_dim=16, width=8, vocabulary=600, ff=16, dropout=0.0)
CPU = torch.device("cpu")


def pair(module, name: str, *args: int) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The project's model and the reference's, of the same parameters."""
    torch.manual_seed(0)
    ours, plain = getattr(module, name)(CONFIG, *args), getattr(reference, name)(CONFIG, *args)
    plain.load_state_dict(ours.state_dict())
    return ours, plain


@pytest.mark.parametrize(
    ("module", "name", "args"),
    [
        (model1.model, "WordImageModel", ()),
        (model2.model, "SentenceImageModel", ()),
        (multilabel.model, "MultiLabelClassifier", (2, 3)),
    ],
)
def test_losses_and_gradients_of_a_step(module, name, args):
    batch = inputs.batch(CONFIG, 12, negatives=name != "MultiLabelClassifier")
    losses, gradients = [], []
    for model in pair(module, name, *args):
        found = model(batch)
        sum(found.values()).backward()
        losses.append(found)
        gradients.append({key: one.grad for key, one in model.named_parameters() if one.grad is not None})
    torch.testing.assert_close(losses[0], losses[1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5, rtol=1e-4)


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


@pytest.mark.parametrize(
    ("module", "name"), [(model1.model, "WordImageModel"), (model2.model, "SentenceImageModel")]
)
def test_scores_of_a_table(table, module, name):
    ours, plain = (model.eval() for model in pair(module, name))
    found = score_table(table, ours, inputs.encode_text, CONFIG.region_dim, CPU)
    expected = reference.score_table(table, plain, inputs.encode_text)
    assert list(found) == list(expected)
    for query, candidates in found.items():
        scores = sorted(expected[query], reverse=True)
        np.testing.assert_allclose([score for _, score in candidates], scores, atol=1e-5)


def test_the_blend():
    model1_scores, model2_scores, answers = inputs.predictions(queries=20)
    found = best_weight(model1_scores, model2_scores, answers)
    assert found == pytest.approx(reference.best_weight(model1_scores, model2_scores, answers))
    assert 0 < found[0] < 1


@pytest.mark.parametrize("stage", list(works.MODELS))
def test_a_step_does_little_more_than_the_least_arithmetic(stage):
    config = ModelConfig(region_dim=256, width=128, vocabulary=3000, ff=512, dropout=0.0)
    build, _, args = works.MODELS[stage]
    batch = inputs.batch(config, 24, negatives=stage != "multilabel")
    with FlopCounterMode(display=False) as counter:
        sum(build(config, *args)(batch).values()).backward()
    least = getattr(arithmetic, f"{stage}_step")(config, batch)
    assert least < counter.get_total_flops() < 1.15 * least


def test_a_row_has_both_sides_and_their_ratio():
    row = compare("blend", 50, partial(works.blend, False), partial(works.blend, True), 1, lambda: 1e-3)
    assert row.ratio == row.reference_seconds / row.seconds
    assert row.limit_share == 1e-3 / row.seconds
    assert min(row.peak_mb, row.reference_peak_mb) > 10


def test_sides_that_differ_are_refused():
    with pytest.raises(AssertionError, match="mismatched"):
        compare("mismatched", None, partial(works.blend, False), other_result, 1)


def other_result() -> Job:
    """A job that comes to something else than any blend."""
    return Job(lambda: None, lambda: [2.0, 2.0])
