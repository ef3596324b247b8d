"""What models say of their images, read from configs alone; and the pixels that follow, equal to the libraries' own to the bit."""

import numpy as np
import pytest
import torch
from needed import needed
from odd_pictures import ODD_PICTURES, made_picture
from PIL import Image
from weight_caches import json_bytes, put_hub_files, use_empty_caches

from robench.core.decoding import decoded_item
from robench.core.errors import InputError
from robench.core.preprocessing import Preprocessing
from robench.models import checkpoint
from robench.models.layers import Normalize
from robench.models.preprocessing import model_preprocessing

pytestmark = pytest.mark.timm


@pytest.fixture
def caches(monkeypatch, tmp_path):
    needed("huggingface_hub")
    use_empty_caches(monkeypatch, tmp_path)
    return tmp_path


def library_pixels(path, steps):
    """The uint8 pixels (3, H, W) after the steps of a library that come before the tensor."""
    image = Image.open(path).convert("RGB")
    for step in steps:
        image = step(image)
    return np.asarray(image).transpose(2, 0, 1)


@pytest.mark.parametrize("picture", ODD_PICTURES)
@pytest.mark.parametrize(
    "source", ["tv/resnet50,weights=IMAGENET1K_V1", "tv/resnet50,weights=DEFAULT", "tv/vit_b_16,weights=IMAGENET1K_SWAG_E2E_V1"]
)
def test_pixels_are_torchvisions_own_to_the_bit(caches, source, picture):
    import torchvision

    name, _, words = source.removeprefix("tv/").partition(",weights=")
    own = torchvision.models.get_model_weights(name)[words].transforms()
    path = made_picture(picture, caches)
    preprocessing = model_preprocessing(source)
    ours = decoded_item(("file", str(path)), preprocessing)
    functions = torchvision.transforms.functional
    steps = (
        lambda image: functions.resize(image, own.resize_size, interpolation=own.interpolation, antialias=own.antialias),
        lambda image: functions.center_crop(image, own.crop_size),
    )
    assert np.array_equal(ours, library_pixels(path, steps))
    whole = own(Image.open(path).convert("RGB"))
    assert torch.equal(Normalize(own.mean, own.std)(torch.from_numpy(ours) / 255), whole)


@pytest.mark.parametrize("picture", ODD_PICTURES)
@pytest.mark.parametrize(
    "name", ["vit_small_patch16_224", "resnet50.a1_in1k", "convnext_base.fb_in22k_ft_in1k_384", "eva02_base_patch14_448"]
)
def test_pixels_are_timms_own_to_the_bit(caches, name, picture):
    timm = needed("timm")
    config = timm.data.resolve_data_config({}, pretrained_cfg=timm.models.get_pretrained_cfg(name).to_dict())
    own = timm.data.create_transform(**config, is_training=False)
    path = made_picture(picture, caches)
    ours = decoded_item(("file", str(path)), model_preprocessing(f"timm/{name},pretrained=true"))
    assert np.array_equal(ours, library_pixels(path, own.transforms[:-2]))
    whole = own(Image.open(path).convert("RGB"))
    assert torch.equal(Normalize(config["mean"], config["std"])(torch.from_numpy(ours) / 255), whole)


def test_what_is_known_without_weights_and_what_says_nothing(caches):
    needed("timm")
    assert model_preprocessing("tv/resnet50,weights=DEFAULT") == Preprocessing(232, (224, 224), "bilinear")
    assert model_preprocessing("tv/resnet50,weights=DEFAULT").origin == "tv/resnet50,weights=IMAGENET1K_V2"
    assert model_preprocessing("timm/vit_small_patch16_224,pretrained=true") == Preprocessing(248, (224, 224), "bicubic")
    assert model_preprocessing("timm/vit_small_patch16_224,pretrained=true,img_size=384") == Preprocessing(426, (384, 384), "bicubic")
    for source in ("tv/resnet50", "timm/resnet50", "timm/resnet50,pretrained=false", "mine.py:net"):
        assert model_preprocessing(source) is None


def test_every_torchvision_classifier_says_how_its_images_are_prepared():
    import torchvision

    models = torchvision.models
    for name in models.list_models(module=models):
        for entry in models.get_model_weights(name):
            if entry.meta["categories"]:
                said, own = model_preprocessing(f"tv/{name},weights={entry.name}"), entry.transforms()
                assert (said.resize, said.crop) == (own.resize_size[0], (own.crop_size[0],) * 2)


def test_nearly_every_model_of_timms_with_weights_says_how_its_images_are_prepared():
    timm = needed("timm")
    refused = []
    for name in timm.list_pretrained()[::7]:
        config = timm.models.get_pretrained_cfg(name)
        if not config.num_classes:
            continue
        try:
            said = model_preprocessing(f"timm/{name},pretrained=true")
        except InputError as error:
            refused.append(str(error))
            continue
        assert said.crop == tuple(config.input_size[1:])
        assert said.interpolation == config.interpolation
    assert len(refused) < 5, refused


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, Preprocessing(71, (64, 64), "bicubic")),
        ({"crop_mode": "squash", "crop_pct": 1.0, "interpolation": "bilinear"}, Preprocessing((64, 64), (64, 64), "bilinear")),
        ({"crop_mode": "squash", "input_size": [3, 64, 96]}, Preprocessing((71, 106), (64, 96), "bicubic")),
        ({"crop_mode": "border"}, "wants its images padded with a border"),
        ({"crop_pct": 1.2}, "wants its images padded with a border"),
        ({"input_size": [3, 64, 96]}, "only square ones are resized as timm does it"),
        ({"crop_pct": "much"}, "says of its images what timm does not take"),
        ({"crop_pct": -1}, "padded with a border"),
        ({"interpolation": "magic"}, "unknown interpolation 'magic'"),
        ({"input_size": [3, 10**9, 10**9]}, "at most 4096 pixels"),
    ],
)
def test_a_repository_says_it_in_its_config(caches, more, expected):
    needed("timm")
    config = {"input_size": [3, 64, 64], "crop_pct": 0.9, "interpolation": "bicubic", "num_classes": 3} | more
    put_hub_files("me/net", {"config.json": json_bytes({"architecture": "resnet18", "num_classes": 3, "pretrained_cfg": config})})
    if isinstance(expected, str):
        with pytest.raises(InputError, match=expected) as caught:
            model_preprocessing("timm/hf-hub:me/net")
        assert "\n" not in str(caught.value)
    else:
        assert model_preprocessing("timm/hf-hub:me/net") == expected


def test_a_checkpoint_of_ours_says_it(tmp_path):
    from robench.models import build_network

    about = {"arch": "mlp", "classes": 3, "shape": [1, 8, 8], "activation": "relu", "mean": None, "std": None}
    network = build_network("mlp", classes=3, shape=(1, 8, 8))
    said = Preprocessing(9, (8, 8), "bicubic")
    checkpoint.save_checkpoint(tmp_path / "a.pt", network, {"model": about | {"preprocessing": said.plain()}})
    checkpoint.save_checkpoint(tmp_path / "b.pt", network, {"model": about})
    checkpoint.save_checkpoint(tmp_path / "c.pt", network, {"model": about | {"preprocessing": {"resize": "wide"}}})
    assert model_preprocessing(str(tmp_path / "a.pt")) == said
    assert model_preprocessing(str(tmp_path / "b.pt")) is None
    with pytest.raises(InputError, match=r"c.pt says of its preprocessing"):
        model_preprocessing(str(tmp_path / "c.pt"))
