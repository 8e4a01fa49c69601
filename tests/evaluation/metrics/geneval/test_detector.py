"""The detector on a tiny Mask2Former of the real class, and the real one's layout."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation

from flowbp.evaluation.metrics.geneval import detector as module
from flowbp.evaluation.metrics.geneval.detector import Mask2Former, Sizes, instances, prepare
from flowbp.evaluation.metrics.geneval.task import CLASSES
from flowbp.rewards import Towers

from .tiny import save


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("detector")
    save(path)
    return path


@pytest.fixture(scope="module")
def small():
    """Pictures are brought to 800 pixels a side, which takes seconds; here to 64."""
    patch = pytest.MonkeyPatch()
    patch.setattr("flowbp.evaluation.metrics.geneval.detector._LONGEST", 96)
    patch.setattr("flowbp.evaluation.metrics.geneval.detector._SHORTEST", 50)
    yield
    patch.undo()


@pytest.fixture
def images():
    return torch.rand(3, 3, 24, 30, generator=torch.Generator().manual_seed(0))


def told(detections):
    return [(each.name, round(each.score, 4), each.box) for each in detections]


@pytest.mark.usefixtures("small")
def test_it_finds_what_the_model_says(folder, images):
    detector = Mask2Former(source=folder, towers=Towers())
    found = detector(images)
    model = Mask2FormerForUniversalSegmentation.from_pretrained(folder).eval()
    for image, detections in zip(images, found, strict=True):
        with torch.no_grad():
            output = model(pixel_values=prepare(image[None]))
        sizes = Sizes(padded=(64, 64), shown=(50, 63), original=(24, 30))
        wanted = instances(output.class_queries_logits[0], output.masks_queries_logits[0], sizes)
        assert told(detections) == told(wanted)
        assert all(each.mask.shape == (24, 30) for each in detections)
        assert all(each.name in CLASSES and 0.3 < each.score <= 1 for each in detections)
    assert sum(map(len, found)) > 0


@pytest.mark.usefixtures("small")
def test_a_batch_changes_nothing(folder, images):
    towers = Towers()
    one, all_ = (Mask2Former(source=folder, batch=n, towers=towers) for n in (1, 3))
    assert one.model is all_.model
    assert list(map(told, one(images))) == list(map(told, all_(images)))
    assert one(images[:0]) == ()


def test_pictures_of_another_shape_are_refused(folder):
    with pytest.raises(ValueError, match=r"`images` must be \(B, 3, H, W\), got \(3, 8, 8\)"):
        Mask2Former(source=folder, towers=Towers())(torch.rand(3, 8, 8))


def test_models_of_other_kinds_are_refused(tmp_path, folder):
    save(tmp_path / "few", labels=5)
    with pytest.raises(ValueError, match="COCO's 80 classes, got 5"):
        Mask2Former(source=tmp_path / "few", towers=Towers())
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(ValueError, match="must hold a Mask2Former, got model_type 'clip'"):
        Mask2Former(source=tmp_path / "clip", towers=Towers())
    with pytest.raises(ValueError, match=r"`source` must be a folder .* there is no such path"):
        Mask2Former(source=tmp_path / "absent")
    with pytest.raises(ValueError, match="`batch` must be an integer >= 1, got 0"):
        Mask2Former(source=folder, batch=0)


def test_damaged_weights_are_refused(tmp_path):
    model = save(tmp_path)
    weights = model.state_dict()
    del weights["class_predictor.bias"]
    model.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(ValueError, match=r"the first being class_predictor\.bias"):
        Mask2Former(source=tmp_path, towers=Towers())
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is damaged"):
        Mask2Former(source=tmp_path, towers=Towers())


def test_scipy_is_asked_for_by_our_extra(folder, monkeypatch):
    def absent(name, *, extra="models"):
        raise ModuleNotFoundError(f"{name} of {extra}")

    monkeypatch.setattr(module, "require", absent)
    with pytest.raises(ModuleNotFoundError, match="scipy of geneval"):
        Mask2Former(source=folder, towers=Towers())


def test_the_real_ones_layout():
    swin = dict(
        model_type="swin",
        embed_dim=96,
        depths=[2, 2, 18, 2],
        num_heads=[3, 6, 12, 24],
        window_size=7,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    with torch.device("meta"):
        model = Mask2FormerForUniversalSegmentation(
            Mask2FormerConfig(backbone_config=swin, num_labels=80, num_queries=100)
        )
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    pixels, decoder = "model.pixel_level_module", "model.transformer_module.decoder"
    assert shapes["class_predictor.weight"] == (81, 256)
    assert shapes["model.transformer_module.queries_features.weight"] == (100, 256)
    assert shapes[f"{pixels}.decoder.mask_projection.weight"] == (256, 256, 1, 1)
    assert shapes[f"{decoder}.layers.8.self_attn.k_proj.weight"] == (256, 256)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert round(count / 1e6) == 69
