"""Image classifiers of the Hugging Face hub, from made weights and settings in the layout of its cache."""

import io
import json

import numpy as np
import pytest
import torch
from commandline import read, refused, robench
from needed import needed
from PIL import Image
from weight_caches import json_bytes, moved_statistics, put_hub_files, safetensors_bytes, use_empty_caches

from robench.core.decoding import decoded_item
from robench.core.errors import InputError
from robench.models import load_with_origin
from robench.models.preprocessing import model_preprocessing

transformers = needed("transformers")
needed("huggingface_hub")
NAME = "org/tiny"
VIT_IMAGES = {
    "image_processor_type": "ViTImageProcessor", "do_resize": True, "size": {"height": 32, "width": 32}, "resample": 2, "do_rescale": True,
    "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.6, 0.7],
}  # fmt: skip


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    """Empty caches, and no way into the network."""
    use_empty_caches(monkeypatch, tmp_path / "caches")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("a test reached for the network"))
    monkeypatch.chdir(tmp_path)


def vit(classes=5, **options):
    """A transformer of two layers, with random weights."""
    torch.manual_seed(0)
    words = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "image_size": 32,
        "patch_size": 8,
    }
    config = transformers.ViTConfig(**words, **options, num_labels=classes)
    return transformers.ViTForImageClassification(config).eval()


def config_of(network):
    """The `config.json` that save_pretrained writes."""
    return {**json.loads(network.config.to_json_string(use_diff=False)), "architectures": [type(network).__name__]}


def put(network, images=VIT_IMAGES, name=NAME, **changed):
    """Puts a network and the settings of its images into the hub's cache."""
    files = {"config.json": json_bytes(config_of(network) | changed), "model.safetensors": safetensors_bytes(network)}
    return put_hub_files(name, files | ({"preprocessor_config.json": json_bytes(images)} if images else {}))


def pixels(n=3, side=32):
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0))


def photograph(path, height, width):
    """A JPEG of some smoothness."""
    small = np.random.default_rng(height).integers(0, 256, (height // 7, width // 7, 3), dtype=np.uint8)
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(path, quality=90)
    return path


def processed(settings, path, backend="pil"):
    """The pixels that transformers' own processor makes of a file, (3, H, W) in [0, 255]."""
    put(vit(), settings, "org/processor")
    folder = put_hub_files("org/processor", {})
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend=backend, local_files_only=True)
    with Image.open(path) as image:
        return np.asarray(processor(image.convert("RGB"), do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"])[0]


def test_logits_are_those_of_the_librarys_own_pipeline():
    network = vit(id2label=dict(enumerate("abcde")))
    put(network)
    loaded = load_with_origin(f"hf/{NAME}", classes=5, shape=(3, 32, 32))
    mean, std = (torch.tensor(VIT_IMAGES[key]).view(3, 1, 1) for key in ("image_mean", "image_std"))
    with torch.no_grad():
        assert torch.equal(loaded.model(pixels()), network((pixels() - mean) / std).logits)
    assert loaded.class_names == tuple("abcde")
    assert loaded.name == f"hf/{NAME}"
    assert any("mean and std of its ViTImageProcessor" in note for note in loaded.notes)


CUT = {"do_center_crop": True, "crop_size": 32, "resample": 3}
LOWER = "from the lower half pixel"


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        ("ViT", {}, "resize 32x32 bilinear"),
        ("ViT", {"resample": 3, "size": 48}, "resize 48x48 bicubic"),  # as files of 2021 say it
        ("ConvNext", {"size": {"shortest_edge": 40}, "crop_pct": 0.875, "resample": 3}, f"resize 45 bicubic, crop 40x40 {LOWER}"),
        ("ConvNext", {"size": {"shortest_edge": 384}, "crop_pct": 0.875}, "resize 384x384 bilinear"),
        ("Bit", {"size": {"shortest_edge": 51}, **CUT}, f"resize 51 bicubic, crop 32x32 {LOWER}"),
        ("DeiT", {"size": 38, **CUT}, "resize 38x38 bicubic, crop 32x32"),
        ("", {"feature_extractor_type": "CLIPFeatureExtractor", "size": 32, **CUT}, f"resize 32 bicubic, crop 32x32 {LOWER}"),
        ("Levit", {"size": {"shortest_edge": 35}, **CUT, "crop_size": 35}, f"resize 40 bicubic, crop 35x35 {LOWER}"),
        ("MobileViT", {"size": {"shortest_edge": 36}, **CUT, "do_flip_channel_order": True}, f"resize 36 bicubic, crop 32x32 {LOWER}"),
        ("EfficientNet", {"resample": 0, "include_top": False}, "resize 32x32 nearest"),
        ("Bit", {"do_resize": False, **CUT, "crop_size": {"height": 31, "width": 30}}, f"crop 31x30 {LOWER}"),
    ],
)
def test_pixels_of_a_file_are_those_of_the_processor_to_the_bit(tmp_path, kind, settings, words):
    named = {"image_processor_type": f"{kind}ImageProcessor"} if kind else {}
    settings = {key: value for key, value in VIT_IMAGES.items() if key != "image_processor_type"} | named | settings
    put(vit(), settings)
    preprocessing = model_preprocessing(f"hf/{NAME}")
    assert preprocessing.words() == words
    for height, width in ((375, 500), (333, 251), (64, 483), (217, 219)):
        path = photograph(tmp_path / f"{height}.jpg", height, width)
        expected = processed(settings, path)
        if settings.get("do_flip_channel_order"):
            expected = expected[::-1]
        assert np.array_equal(decoded_item(("file", str(path)), preprocessing), expected)


@pytest.mark.parametrize(
    ("settings", "mean", "std"),
    [
        ({"do_normalize": False}, (0, 0, 0), (1, 1, 1)),
        ({"rescale_factor": 1 / 127.5}, (0.25, 0.2, 0.15), (0.25, 0.3, 0.35)),
        ({"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [51.0] * 3}, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)),
        ({"image_processor_type": "EfficientNetImageProcessor", "include_top": True, "rescale_offset": False},
         (0.5, 0.4, 0.3), (0.25, 0.36, 0.49)),  # divides by the spread twice, as TensorFlow's network was trained
        ({"image_processor_type": "MobileViTImageProcessor", "do_flip_channel_order": True}, (0, 0, 0), (1, 1, 1)),
    ],
)  # fmt: skip
def test_normalisation_is_what_the_processor_does_and_not_what_its_settings_are_called(settings, mean, std):
    network = vit()
    put(network, VIT_IMAGES | settings)
    loaded = load_with_origin(f"hf/{NAME}")
    x = (pixels() - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    expected = network(x.flip(1) if settings.get("do_flip_channel_order") else x).logits
    assert torch.allclose(loaded.model(pixels()), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"image_processor_type": "PerceiverImageProcessor", "crop_size": 28},  # cuts before it resizes
        {"image_processor_type": "DonutImageProcessor", "size": {"height": 64, "width": 48}},  # fills up
        {
            "image_processor_type": "BitImageProcessor",
            "size": {"shortest_edge": 32},
            "do_center_crop": True,
            "crop_size": 40,
        },  # black edges
        {"image_processor_type": "ViTImageProcessor", "size": {"shortest_edge": 32, "longest_edge": 40}},
    ],
)
def test_what_is_no_resize_and_crop_is_refused_and_the_options_named(settings):
    put(vit(), VIT_IMAGES | settings)
    with pytest.raises(InputError, match="no resize and crop: give --resize, --image-size and --interpolation"):
        model_preprocessing(f"hf/{NAME}")
    assert load_with_origin(f"hf/{NAME}").model(pixels()).shape == (3, 5)


def test_torchvisions_way_of_resizing_differs_by_some_grey_levels(tmp_path):
    settings = VIT_IMAGES | {"size": {"height": 224, "width": 224}}
    path = photograph(tmp_path / "a.jpg", 375, 500)
    apart = np.abs(processed(settings, path).astype(int) - processed(settings, path, "torchvision").astype(int))
    assert 0 < apart.max() <= 3


def test_weights_in_parts_and_pickled_ones_are_read(tmp_path):
    network = vit()
    for words in ({"max_shard_size": "40KB"}, {}):
        folder = tmp_path / f"saved{len(words)}"
        network.save_pretrained(folder, **words)
        assert (len([*folder.glob("*.safetensors")]) > 1) == bool(words)
        put_hub_files(
            f"org/n{len(words)}", {path.name: path.read_bytes() for path in folder.iterdir()} | {"preprocessor_config.json": b"{}"}
        )
    buffer = io.BytesIO()
    torch.save(network.state_dict(), buffer)
    folder = put_hub_files("org/old", {"config.json": json_bytes(config_of(network)), "pytorch_model.bin": buffer.getvalue()})
    (folder / "preprocessor_config.json").write_text(json.dumps(VIT_IMAGES))
    for name in ("n1", "n0", "old"):
        assert len(load_with_origin(f"hf/org/{name}").model.state_dict()) > 10
    folder = put_hub_files("org/n1", {})
    next(folder.glob("*-of-*.safetensors")).unlink()
    with pytest.raises(InputError, match=r"hf/org/n1 needs model-0\S+ of org/n1 in \S+models--org--n1/snapshots, which is not there"):
        load_with_origin("hf/org/n1")


class Trap:
    """Something whose unpickling writes a file."""

    def __reduce__(self):
        return (open, ("trapped", "w"))


def test_pickled_weights_with_code_in_them_are_refused(tmp_path):
    network, buffer = vit(), io.BytesIO()
    torch.save({**network.state_dict(), "more": Trap()}, buffer)
    put_hub_files(NAME, {"config.json": json_bytes(config_of(network)), "pytorch_model.bin": buffer.getvalue()} | IMAGES_FILE)
    with pytest.raises(InputError, match="could not be loaded as an image classifier"):
        load_with_origin(f"hf/{NAME}")
    assert not (tmp_path / "trapped").exists()


IMAGES_FILE = {"preprocessor_config.json": json_bytes(VIT_IMAGES)}


def test_code_in_a_repository_is_never_run(tmp_path):
    code = b"import pathlib\npathlib.Path('ran').touch()\n"
    auto = {"AutoConfig": "mine.Config", "AutoModelForImageClassification": "mine.Model"}
    files = {"mine.py": code, "model.safetensors": b"", "config.json": json_bytes({"model_type": "mine", "auto_map": auto})}
    put_hub_files(NAME, files | IMAGES_FILE)
    with pytest.raises(InputError, match=r"needs code from its repository \(auto_map in config.json\), which is never run"):
        load_with_origin(f"hf/{NAME}")
    put(vit(), auto_map=auto)  # of a kind that transformers has itself
    put_hub_files(
        NAME, {"mine.py": code, "preprocessor_config.json": json_bytes(VIT_IMAGES | {"auto_map": {"AutoImageProcessor": "mine.P"}})}
    )
    assert load_with_origin(f"hf/{NAME}").model(pixels()).shape == (3, 5)
    put(vit(), attn_implementation="someone/kernels")
    with pytest.raises(InputError, match="asks for kernels of another repository"):
        load_with_origin(f"hf/{NAME}")
    assert not (tmp_path / "ran").exists()


def test_a_network_without_a_trained_last_layer_is_refused():
    network = vit()
    files = {
        "config.json": json_bytes(config_of(network) | {"architectures": ["ViTModel"]}),
        "model.safetensors": safetensors_bytes(network.vit),
    }
    put_hub_files(NAME, files | IMAGES_FILE)
    with pytest.raises(
        InputError, match=r"no weights for classifier\.bias, classifier\.weight: it is no trained ViTForImageClassification"
    ):
        load_with_origin(f"hf/{NAME}")


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (
            "hf/org/none",
            r"hf/org/none needs config.json of org/none in \S+/hub/models--org--none/snapshots, which is not there: .*--download",
        ),
        ("hf/org/tiny@v2", r"needs config.json of org/tiny at v2"),
        ("hf/a/b/c", "write hf/ORG/NAME"),
        ("hf/", "write hf/ORG/NAME"),
        ("hf/org/na me", "is no model of Hugging Face's hub"),
        ("hf/org/tiny,revision=v2", "write the revision behind the name, as hf/ORG/NAME@REVISION"),
        ("hf/./none", "no folder that save_pretrained wrote"),
    ],
)
def test_what_is_not_there_gets_one_sentence(source, sentence):
    put(vit())
    with pytest.raises(InputError, match=sentence):
        load_with_origin(source)


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("config.json", b"[1]", "holds no JSON object"),
        ("config.json", b"{", "config.json cannot be read"),
        ("config.json", b'{"model_type": "vitt"}', "does not have: vitt"),
        ("config.json", b"{}", "its config.json names none"),
        ("config.json", b'{"model_type": "bert"}', "could not be loaded as an image classifier"),
        ("config.json", b'{"model_type": "vit", "hidden_size": "x"}', "could not be loaded as an image classifier"),
        ("preprocessor_config.json", b"{", "preprocessor_config.json cannot be read"),
        ("preprocessor_config.json", b'{"image_processor_type": "Odd"}', "describes no image processor"),
        ("preprocessor_config.json", json_bytes(VIT_IMAGES | {"size": "x"}), "image processor"),
        ("preprocessor_config.json", json_bytes(VIT_IMAGES | {"image_std": [0, 0, 0]}), "image processor"),
        ("preprocessor_config.json", json_bytes(VIT_IMAGES | {"image_mean": [0.5]}), "image processor"),
        ("model.safetensors", b"abc", "could not be loaded as an image classifier"),
    ],
)
def test_damaged_files_get_one_sentence(file, content, sentence):
    put(vit())
    put_hub_files(NAME, {file: content})
    with pytest.raises(InputError, match=sentence):
        load_with_origin(f"hf/{NAME}")


def test_without_settings_of_images_it_is_asked_for_them_unless_it_is_known_that_there_are_none(tmp_path):
    network = vit()
    folder = put(network, None)
    with pytest.raises(InputError, match=r"needs preprocessor_config.json in \S+, which is not there"):
        load_with_origin(f"hf/{NAME}")
    absent = folder.parents[1] / ".no_exist" / folder.name / "preprocessor_config.json"  # how the hub's cache notes that there is none
    absent.parent.mkdir(parents=True)
    absent.touch()
    loaded = load_with_origin(f"hf/{NAME}", mean=(0.5,) * 3, std=(0.5,) * 3)
    assert torch.equal(loaded.model(pixels()), network((pixels() - 0.5) / 0.5).logits)
    assert model_preprocessing(f"hf/{NAME}") is None
    absent.unlink()
    put(network)
    with pytest.raises(InputError, match="leave --mean out"):
        load_with_origin(f"hf/{NAME}", mean=(0.5,) * 3, std=(0.5,) * 3)


def test_what_is_missing_is_fetched_where_the_user_says_so_and_once(monkeypatch):
    network = vit()
    there = {"config.json": json_bytes(config_of(network)), "model.safetensors": safetensors_bytes(network)} | IMAGES_FILE
    asked = []

    def fetch(repository, name, revision=None):
        asked.append(name)
        return str(put_hub_files(repository, {name: there[name]}) / name)

    def fetch_matching(repository, revision=None, allow_patterns=()):
        for name in [name for name in there if name in allow_patterns]:
            fetch(repository, name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch_matching)
    with pytest.raises(InputError, match="--download"):
        load_with_origin(f"hf/{NAME}")
    assert asked == []
    first = load_with_origin(f"hf/{NAME}", download=True)
    assert {*asked} == {*there}
    asked.clear()
    assert first.sha256 == load_with_origin(f"hf/{NAME}", download=True).sha256 == load_with_origin(f"hf/{NAME}").sha256
    assert asked == []


def test_a_folder_of_ones_own_is_read_and_named_without_its_place(tmp_path):
    network = vit()
    network.save_pretrained(tmp_path / "mine" / "net")
    (tmp_path / "mine" / "net" / "preprocessor_config.json").write_text(json.dumps(VIT_IMAGES))
    for source in ("hf/./mine/net", f"hf/{tmp_path}/mine/net"):
        loaded = load_with_origin(source)
        assert loaded.name == "hf/net"
        assert loaded.sha256 == load_with_origin("hf/./mine/net").sha256


def test_a_repository_in_timms_layout_is_opened_by_timm():
    timm = needed("timm")
    torch.manual_seed(0)
    network = moved_statistics(timm.create_model("test_efficientnet", num_classes=7))
    config = {
        "architecture": "test_efficientnet",
        "num_classes": 7,
        "pretrained_cfg": {"input_size": [3, 64, 64], "mean": [0.5] * 3, "std": [0.25] * 3},
    }
    put_hub_files(NAME, {"config.json": json_bytes(config), "model.safetensors": safetensors_bytes(network)})
    loaded = load_with_origin(f"hf/{NAME}")
    assert torch.equal(loaded.model(pixels(2, 64)), network((pixels(2, 64) - 0.5) / 0.25))
    assert model_preprocessing(f"hf/{NAME}") == model_preprocessing(f"timm/hf-hub:{NAME}")
    assert model_preprocessing(f"hf/{NAME}").crop == (64, 64)


def test_a_run_through_the_command(tmp_path, no_pictures):
    put(vit(10))
    robench("eval", f"hf/{NAME}", "--data", "shapes", "--suite", "fgsm", "--n", 4, "--out", "run", "--quiet")
    assert {row["checkpoint"] for row in read(tmp_path / "run" / "rows.csv")} == {f"hf/{NAME}"}
    assert "needs config.json" in refused("eval", "hf/org/none", "--data", "shapes", "--n", 4)


def folder_of_predictions(top, network, settings, names):
    """JPEGs of odd sizes in folders of the classes that transformers' own pipeline predicts; how many."""
    put(network, settings, "org/processor")
    processor = transformers.AutoImageProcessor.from_pretrained(put_hub_files("org/processor", {}), backend="pil", local_files_only=True)
    for name in names:
        (top / name).mkdir(parents=True)
    paths = [photograph(top / f"{index}.jpg", 90 + 31 * index, 400 - 23 * index) for index in range(12)]
    with torch.no_grad():
        x = torch.cat([processor(Image.open(path).convert("RGB"), return_tensors="pt")["pixel_values"] for path in paths])
        network.classifier.bias -= network(x).logits.mean(0)  # so that it predicts several classes
        for path, label in zip(paths, network(x).logits.argmax(1).tolist(), strict=True):
            path.rename(top / names[label] / path.name)
    return len([*top.rglob("*.jpg")])


BIT = VIT_IMAGES | {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 51}, "do_center_crop": True, "crop_size": 32}


@pytest.mark.parametrize("settings", [VIT_IMAGES, BIT], ids=["ViT", "BiT"])
def test_a_folder_of_files_of_many_sizes_gets_the_predictions_of_the_librarys_own_pipeline(tmp_path, settings, no_pictures):
    names = ("ant", "bee", "cat", "dog", "emu")
    network = vit(id2label=dict(enumerate(names)))
    n = folder_of_predictions(tmp_path / "val", network, settings, names)
    put(network, settings)
    assert len({path.parent for path in (tmp_path / "val").rglob("*.jpg")}) > 1
    call = ("eval", f"hf/{NAME}", "--data", f"folder:{tmp_path / 'val'}", "--suite", "fgsm", "--eps", "1/2550")
    said = robench(*call, "--n", "all", "--out", "run").stderr
    assert "images are resized and cut as hf/org/tiny says" in said
    (clean,) = [row for row in read(tmp_path / "run" / "rows.csv") if row["probe"] == "clean" and row["metric"] == "accuracy"][:1]
    assert (float(clean["value"]), int(clean["n"])) == (1, n)


def test_sizes_of_ones_own_take_the_place_of_a_processor_that_is_not_offered(tmp_path, no_pictures):
    names = ("ant", "bee", "cat", "dog", "emu")
    network = vit(id2label=dict(enumerate(names)))
    folder_of_predictions(tmp_path / "val", network, VIT_IMAGES, names)
    put(network, VIT_IMAGES | {"image_processor_type": "PerceiverImageProcessor", "crop_size": 28})
    call = ("eval", f"hf/{NAME}", "--data", f"folder:{tmp_path / 'val'}", "--suite", "fgsm", "--n", 4, "--out", "run")
    assert "give --resize, --image-size and --interpolation" in refused(*call)
    said = " ".join(robench(*call, "--image-size", 32).stderr.split())
    assert "prepares images by PerceiverImageProcessor in a way that is no resize and crop; the options win" in said


def test_without_the_package_a_name_gets_one_sentence(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(InputError, match=r"needs the package transformers, which is not installed: pip install transformers"):
        load_with_origin("hf/org/tiny")
