from dataclasses import replace

import torch
from torch.nn import functional as F

from kddcup.config import ModelConfig
from kddcup.data.batch import RegionBatch
from kddcup.nn.encoder import ImageEncoder, scale_features
from tests import small


def encoder() -> ImageEncoder:
    torch.manual_seed(1)
    return ImageEncoder(small.CONFIG).eval()


def one_image(model: ImageEncoder, features, boxes):
    """The definition, for one image, with PyTorch's own attention."""
    x = model.norm(features + model.box_encoding(boxes))
    attended, _ = model.encoders[0](x, x, x)
    x = model.ffs[0](model.activations[0](x + attended))
    weight = model.dense_summary(x).softmax(0)
    return (weight * model.dense(x)).sum(0).view(small.CONFIG.heads, small.CONFIG.width)


def test_a_batch_of_ragged_images_is_what_each_image_gives_alone():
    model, images = encoder(), small.images(1, 7, 3, 1, 40)
    found = model(images)
    regions = zip(
        images.features.split(images.lengths.tolist()),
        images.boxes.split(images.lengths.tolist()),
        strict=True,
    )
    expected = torch.stack([one_image(model, *parts) for parts in regions])
    assert found.shape == (5, 5, 8)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_features_become_their_signed_roots_of_one_length():
    features = torch.tensor([[9.0, -16.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.25, 0.0, 0.0, 0.0]])
    found = scale_features(features, 10.0)
    torch.testing.assert_close(found, torch.tensor([[6.0, -8.0, 0, 0], [0, 0, 0, 0], [10, 0, 0, 0]]))
    assert scale_features(features, 0.0) is features


def test_an_encoder_scales_features_where_its_config_says_so():
    plain, scaling = encoder(), ImageEncoder(replace(small.CONFIG, feature_length=5.0)).eval()
    scaling.load_state_dict(plain.state_dict())
    images = small.images(3, 2)
    scaled = RegionBatch(scale_features(images.features, 5.0), images.boxes, images.lengths)
    assert torch.equal(scaling(images), plain(scaled))
    assert not torch.allclose(scaling(images), plain(images))


def test_the_first_heads_alone_are_the_first_of_all_heads():
    model, images = encoder(), small.images(2, 3)
    torch.testing.assert_close(model(images, heads=1), model(images)[:, :1])


def test_regions_may_stand_in_any_order():
    model, images = encoder(), small.images(6)
    order = torch.randperm(6)
    turned = type(images)(images.features[order], images.boxes[order], images.lengths)
    torch.testing.assert_close(model(turned), model(images), atol=1e-5, rtol=1e-5)


def test_frozen_context_gets_no_gradient_and_dense_the_same_as_when_all_is_trained():
    free, frozen, images = encoder(), encoder(), small.images(2, 5)
    frozen.freeze_context()
    for model in (free, frozen):
        model(images).square().sum().backward()
    trained = {name for name, parameter in frozen.named_parameters() if parameter.grad is not None}
    assert {name.split(".")[0] for name in trained} == {"dense", "dense_summary"}
    for name, parameter in frozen.named_parameters():
        if name in trained:
            torch.testing.assert_close(parameter.grad, dict(free.named_parameters())[name].grad)
    assert all(parameter.grad is not None for parameter in free.parameters())


def test_dropout_is_active_in_train_mode_also_where_frozen():
    torch.manual_seed(0)
    model = ImageEncoder(ModelConfig(region_dim=8, width=8, vocabulary=20, ff=16, dropout=0.5))
    model.freeze_context()
    images = small.images(4, 4)
    model.train()
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


def test_attention_heads_are_the_largest_divisor_up_to_16():
    dims = {2048: 16, 1280: 16, 256: 16, 100: 10, 7: 7, 17: 1, 34: 2}
    assert {dim: ModelConfig(region_dim=dim).attention_heads for dim in dims} == dims


def test_weights_of_an_images_regions_sum_to_one_whatever_the_scale():
    model = encoder()
    with torch.no_grad():
        model.dense_summary[-1].weight.mul_(1e4)
        model.dense[0].weight.zero_()
        model.dense[0].bias.fill_(1.0)
    expected = F.linear(torch.ones(40), model.dense[2].weight, model.dense[2].bias).view(5, 8)
    torch.testing.assert_close(model(small.images(3, 9)), expected.expand(2, 5, 8), atol=1e-5, rtol=1e-5)
