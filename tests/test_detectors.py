"""Detectors and backbones of transformers, random and small, saved to a folder and loaded from there."""

import json

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from kddcup.io.errors import UserError
from kddcup.io.tensors import write_tensors
from kddcup.pictures.backbones import load_backbone
from kddcup.pictures.detectors import load_detector, read_queries
from kddcup.pictures.extraction import ExtractorSettings, load_extractor
from kddcup.table.labels import read_labels
from kddcup.table.table import Table
from tests.conftest import call_main

CPU = torch.device("cpu")
STAGES = {
    "embedding_size": 8,
    "hidden_sizes": [8, 12, 16, 20],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
    "out_features": ["stage2", "stage3", "stage4"],
}
DETR = {
    "d_model": 16,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "num_queries": 10,
    "num_labels": 3,
}
RT_DETR = DETR | {
    "encoder_hidden_dim": 16,
    "encoder_in_channels": [12, 16, 20],
    "decoder_in_channels": [16, 16, 16],
    "decoder_layers": 2,
    "num_denoising": 0,
}
TOWER = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 64,
    "patch_size": 16,
}
WORDS = {name: TOWER[name] for name in list(TOWER)[:4]} | {"vocab_size": 50}


def rt_detr():
    config = transformers.RTDetrConfig(backbone_config=transformers.RTDetrResNetConfig(**STAGES), **RT_DETR)
    return transformers.RTDetrForObjectDetection(config)


def rt_detr_v2():
    config = transformers.RTDetrV2Config(backbone_config=transformers.RTDetrResNetConfig(**STAGES), **RT_DETR)
    return transformers.RTDetrV2ForObjectDetection(config)


def d_fine():
    backbone = transformers.HGNetV2Config(
        embedding_size=8,
        hidden_sizes=[12, 16, 20, 24],
        depths=[1, 1, 1, 1],
        stem_channels=[3, 8, 8],
        stage_in_channels=[8, 12, 16, 20],
        stage_mid_channels=[8, 8, 8, 8],
        stage_out_channels=[12, 16, 20, 24],
        stage_num_blocks=[1, 1, 1, 1],
        stage_numb_of_layers=[1, 1, 1, 1],
        out_features=["stage2", "stage3", "stage4"],
    )
    channels = {"encoder_in_channels": [16, 20, 24], "decoder_n_points": [4, 4, 4]}
    return transformers.DFineForObjectDetection(
        transformers.DFineConfig(backbone_config=backbone, **RT_DETR | channels)
    )


def detr():
    backbone = transformers.ResNetConfig(**STAGES | {"out_features": ["stage4"]})
    layers = {"encoder_layers": 1, "decoder_layers": 1}
    config = transformers.DetrConfig(use_timm_backbone=False, backbone_config=backbone, **layers, **DETR)
    return transformers.DetrForObjectDetection(config)


def yolos():
    more = {"num_detection_tokens": 10, "num_labels": 3, "image_size": [64, 64]}
    return transformers.YolosForObjectDetection(transformers.YolosConfig(**TOWER | more))


DETECTORS = {  # with the class of their processor, and D of their own map
    "RT-DETR": (rt_detr, "RTDetrImageProcessorPil", 20),
    "RT-DETRv2": (rt_detr_v2, "RTDetrImageProcessorPil", 20),
    "D-FINE": (d_fine, "RTDetrImageProcessorPil", 24),
    "DETR": (detr, "DetrImageProcessorPil", 20),
    "YOLOS": (yolos, "YolosImageProcessorPil", 16),
}
BACKBONES = {
    "ResNet": lambda: transformers.ResNetModel(transformers.ResNetConfig(**STAGES)),
    "ConvNeXt": lambda: transformers.ConvNextModel(
        transformers.ConvNextConfig(hidden_sizes=[8, 8, 8, 16], depths=[1, 1, 1, 1])
    ),
    "ViT": lambda: transformers.ViTModel(transformers.ViTConfig(**TOWER)),
    "CLIP": lambda: transformers.CLIPModel(
        transformers.CLIPConfig(text_config=WORDS, vision_config=TOWER, projection_dim=8)
    ),
    "CLIP's tower": lambda: transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**TOWER)),
    "SigLIP": lambda: transformers.SiglipModel(
        transformers.SiglipConfig(text_config=WORDS, vision_config=TOWER)
    ),
    "DINOv2": lambda: transformers.Dinov2Model(transformers.Dinov2Config(**TOWER)),
    "DINOv2 with registers": lambda: transformers.Dinov2WithRegistersModel(
        transformers.Dinov2WithRegistersConfig(**TOWER)
    ),
}


def save(folder, kind, **more):
    """A random detector and its processor as transformers saves them."""
    build, processor, _ = DETECTORS[kind]
    torch.manual_seed(0)
    build().save_pretrained(folder)
    getattr(transformers, processor)(size={"height": 64, "width": 64}, **more).save_pretrained(folder)
    return str(folder)


def load(folder, most=4, backbone=None):
    return load_detector(folder, "float32", most, CPU, backbone)


@torch.inference_mode()
def see(extractor, *images):
    return extractor.extract([tuple(view(image) for view in extractor.views) for image in images], CPU)


@pytest.fixture
def picture():
    return Image.effect_mandelbrot((96, 48), (-2, -1, 1, 1), 50).convert("RGB")


@pytest.mark.parametrize("kind", DETECTORS)
def test_detectors_find_regions_with_features_of_their_own(tmp_path, picture, kind):
    extractor = load(save(tmp_path, kind))
    alone, both = see(extractor, picture), see(extractor, picture, picture.rotate(180))
    regions = alone[0]
    assert regions.boxes.shape == (4, 4)
    assert regions.boxes[0].tolist() == [0, 0, 1, 1]
    assert (regions.boxes[:, 2:] > regions.boxes[:, :2]).all()
    assert regions.features.shape == (4, DETECTORS[kind][2])
    assert regions.labels[0] == 3
    assert set(regions.labels[1:]) <= {0, 1, 2}
    assert extractor.labels == ["LABEL_0", "LABEL_1", "LABEL_2", "picture"]
    np.testing.assert_allclose(both[0].features, regions.features, atol=1e-4)


@pytest.mark.parametrize("kind", DETECTORS)
def test_boxes_are_those_of_transformers_with_its_queries_taken_once(tmp_path, picture, kind):
    folder = save(tmp_path, kind)
    network = transformers.AutoModelForObjectDetection.from_pretrained(folder).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    with torch.inference_mode():
        outputs = network(**processor(images=picture, return_tensors="pt"))
    found = processor.post_process_object_detection(
        outputs, threshold=0, target_sizes=[(picture.height, picture.width)]
    )[0]
    regions = see(load(folder, most=2), picture)[0]
    best = found["scores"].argmax()
    left, top, right, bottom = found["boxes"][best].tolist()
    wide = np.array([picture.height, picture.width] * 2)
    np.testing.assert_allclose(
        regions.boxes[1] * wide, np.clip([top, left, bottom, right], 0, wide), atol=1e-3
    )
    assert regions.labels[1] == found["labels"][best]


def test_a_query_gives_its_surest_class_and_its_box_as_top_left_bottom_right():
    centres = torch.tensor([[0.5, 0.25, 0.2, 0.1], [0.9, 0.5, 0.4, 1.2]])
    focal = torch.tensor([[0.0, 2.0], [1.0, -5.0]])
    scores, labels, boxes = read_queries(focal, centres, 2)
    torch.testing.assert_close(scores, torch.tensor([2.0, 1.0]).sigmoid())
    assert labels.tolist() == [1, 0]
    torch.testing.assert_close(boxes, torch.tensor([[0.2, 0.4, 0.3, 0.6], [0, 0.7, 1, 1]]))
    # With a class of no object, which is the likeliest of the first query.
    scores, labels, _ = read_queries(torch.tensor([[0.0, 1.0, 9.0], [3.0, 0.0, 0.0]]), centres, 2)
    assert labels.tolist() == [1, 0]
    torch.testing.assert_close(scores[1], torch.tensor([3.0, 0.0, 0.0]).softmax(0)[0])
    assert scores[0] < 0.01


def test_there_are_no_more_regions_than_boxes(tmp_path, picture):
    assert len(see(load(save(tmp_path, "RT-DETR"), most=50), picture)[0].labels) == 11
    assert len(see(load(str(tmp_path), most=1), picture)[0].labels) == 1


@pytest.mark.parametrize("kind", BACKBONES)
def test_backbones_make_maps(tmp_path, kind):
    torch.manual_seed(0)
    BACKBONES[kind]().save_pretrained(tmp_path)
    backbone = load_backbone(str(tmp_path), "float32")
    views = [backbone.pixels.scale(Image.new("RGB", (300, 200), colour)) for colour in ("red", "blue")]
    with torch.inference_mode():
        feature_map = backbone(views, CPU)
    if backbone.pixels.is_square:
        assert backbone.pixels.side == 64
        assert feature_map.shape == (2, 16, 4, 4)
    else:
        assert feature_map.shape == (2, backbone.dim, 8, 12)


def test_patch_tokens_lie_in_the_map_as_the_patches_do_in_the_picture(tmp_path):
    torch.manual_seed(0)
    network = BACKBONES["DINOv2 with registers"]()
    network.save_pretrained(tmp_path)
    backbone = load_backbone(str(tmp_path), "float32")
    picture = np.zeros((64, 64, 3), np.uint8)
    other = picture.copy()
    other[16:32, 48:64] = 255  # the patch in row 1, column 3
    with torch.inference_mode():
        embedded = network.embeddings(backbone.pixels.normalise([picture, other], CPU))
    changed = (embedded[0] - embedded[1]).abs().sum(-1) > 1e-6
    assert changed.nonzero().tolist() == [[1 + 4 + 1 * 4 + 3]]
    with torch.inference_mode():
        first, second = backbone([picture, other], CPU)
    distance = (first - second).norm(dim=0)
    assert divmod(int(distance.argmax()), 4) == (1, 3)


def test_a_processors_mean_is_taken_but_not_its_cutting(tmp_path):
    BACKBONES["CLIP"]().save_pretrained(tmp_path)
    transformers.CLIPImageProcessorPil().save_pretrained(tmp_path)
    pixels = load_backbone(str(tmp_path), "float32").pixels
    assert pixels.mean[0] == pytest.approx(0.48145466)
    assert (pixels.side, pixels.is_square) == (64, True)


def test_a_detectors_boxes_with_the_features_of_another_backbone(tmp_path, picture):
    folder = save(tmp_path / "detector", "RT-DETR")
    BACKBONES["SigLIP"]().save_pretrained(tmp_path / "backbone")
    settings = ExtractorSettings(detector=folder, backbone=str(tmp_path / "backbone"), max_regions=3)
    extractor = load_extractor(settings, CPU)
    regions = see(extractor, picture)[0]
    np.testing.assert_array_equal(regions.boxes, see(load(folder, most=3), picture)[0].boxes)
    assert regions.features.shape == (3, 16)
    assert extractor.description.backbone_sha256 != extractor.description.detector_sha256 != ""


def test_crops_of_another_backbone(tmp_path, picture):
    BACKBONES["ResNet"]().save_pretrained(tmp_path)
    extractor = load_extractor(ExtractorSettings(backbone=str(tmp_path)), CPU)
    assert see(extractor, picture)[0].features.shape == (6, 20)


def test_weights_in_torchs_form_go_through_the_safe_reader(tmp_path, picture):
    folder = save(tmp_path, "RT-DETR")
    expected = see(load(folder), picture)[0]
    state = transformers.AutoModelForObjectDetection.from_pretrained(folder).state_dict()
    (tmp_path / "model.safetensors").unlink()
    write_tensors(tmp_path / "pytorch_model.bin", dict(state))
    np.testing.assert_array_equal(see(load(folder), picture)[0].features, expected.features)
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'echo'\ntR.")
    with pytest.raises(UserError, match=r"pytorch_model\.bin"):
        load(folder)


def test_the_command_writes_tables_of_a_detectors_regions(tmp_path, picture):
    folder = save(tmp_path / "detector", "YOLOS")
    (tmp_path / "images").mkdir()
    for i in range(3):
        picture.resize((50 + 10 * i, 40)).save(tmp_path / "images" / f"{i}.jpg")
    (tmp_path / "pairs.csv").write_text(
        "query,product_id,split\n" + "".join(f"q{i},{i},train\n" for i in range(3))
    )
    out = tmp_path / "out"
    given = ("--images", tmp_path / "images", "--pairs", tmp_path / "pairs.csv", "--out", out)
    call_main("kddcup.extract", *given, "--detector", folder, "--max_regions", 5, "--workers", 1)
    rows = list(Table(out / "train" / "train.tsv").rows("test"))
    assert [(row.image_h, row.image_w, len(row.boxes)) for row in rows] == [
        (40, 50 + 10 * i, 5) for i in range(3)
    ]
    assert rows[0].boxes[0].tolist() == [0, 0, 40, 50]
    assert read_labels(out) == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2", 3: "picture"}
    assert rows[0].class_labels[0] == 3


def needs_timm(folder):
    config = transformers.DetrConfig(num_labels=3).to_dict()
    (folder / "config.json").write_text(json.dumps(config))
    write_tensors(folder / "pytorch_model.bin", {"weight": torch.zeros(1)})


def has_code(folder):
    save(folder, "RT-DETR")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "code.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text("raise SystemExit('code ran')")


def lacks_weights(folder):
    save(folder, "RT-DETR")
    state = transformers.AutoModelForObjectDetection.from_pretrained(folder).state_dict()
    (folder / "model.safetensors").unlink()
    write_tensors(folder / "pytorch_model.bin", dict(list(state.items())[10:]))


BAD = {
    "no weights": (
        lambda folder: (folder / "config.json").write_text("{}"),
        "has neither model.safetensors nor",
    ),
    "needs timm": (needs_timm, "needs timm, which this project does without"),
    "code of its own": (has_code, "is not a network that transformers can load"),
    "weights are missing": (lacks_weights, "lacks .* and .* more weights of RTDetrForObjectDetection"),
    "torn": (
        lambda folder: (save(folder, "RT-DETR"), (folder / "model.safetensors").write_bytes(b"torn")),
        "not a network",
    ),
    "no processor": (
        lambda folder: (save(folder, "RT-DETR"), (folder / "preprocessor_config.json").unlink()),
        "is not a network that transformers can load",
    ),
    "a backbone": (lambda folder: BACKBONES["ViT"]().save_pretrained(folder), "is not a network that"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_detector_ends_in_one_line(tmp_path, case):
    write, expected = BAD[case]
    write(tmp_path)
    with pytest.raises(UserError, match=expected):
        load(str(tmp_path))


def test_a_name_that_nobody_gives():
    with pytest.raises(UserError, match="no such folder, and the hub does not give it"):
        load("nobody/nothing")


def test_a_network_of_text_makes_no_map(tmp_path):
    transformers.BertModel(transformers.BertConfig(**WORDS)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="makes no map of a picture"):
        load_backbone(str(tmp_path), "float32")
