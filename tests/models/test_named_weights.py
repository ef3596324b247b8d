"""Weights by name: torchvision's and timm's, from made files in the caches where the libraries keep the real ones."""

from pathlib import Path

import numpy as np
import pytest
import torch
from commandline import refused, robench
from needed import needed
from weight_caches import json_bytes, moved_statistics, put_hub_files, put_torch_weights, safetensors_bytes, use_empty_caches

from robench.core.errors import InputError
from robench.core.recipes import parse_recipe
from robench.evaluation.plans import transfer_attack
from robench.models import load_with_origin

pytestmark = pytest.mark.timm
SHAPE = (3, 64, 64)
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(-1, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(-1, 1, 1)


@pytest.fixture
def caches(monkeypatch, tmp_path):
    needed("huggingface_hub")
    use_empty_caches(monkeypatch, tmp_path)
    torch.manual_seed(0)
    return tmp_path


@pytest.fixture
def squeezenet(caches, monkeypatch):
    """A squeezenet with made weights in torch's cache, and its file."""
    import torchvision

    network = moved_statistics(torchvision.models.squeezenet1_1())
    return network, put_torch_weights(monkeypatch, torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1, network.state_dict())


@pytest.mark.parametrize("words", ["DEFAULT", "IMAGENET1K_V1", "SqueezeNet1_1_Weights.IMAGENET1K_V1", "SqueezeNet1_1_Weights.DEFAULT"])
def test_torchvision_weights_load_by_the_names_of_its_enum_with_its_normalisation_and_classes(squeezenet, words):
    network, file = squeezenet
    loaded = load_with_origin(f"tv/squeezenet1_1,weights={words}", classes=1000, shape=SHAPE)
    x = torch.rand(3, *SHAPE)
    assert torch.equal(loaded.model(x), network((x - MEAN) / STD))
    assert loaded.class_names[:2] == ("tench", "goldfish")
    assert len(loaded.class_names) == 1000
    assert file.name in loaded.notes[0]
    assert loaded.name == f"tv/squeezenet1_1,weights={words}"


def test_weights_by_name_are_the_source_of_a_transfer_attack(squeezenet):
    attack = transfer_attack(parse_recipe("transfer:tv/squeezenet1_1,weights=DEFAULT,steps=2"), "cpu")
    assert attack.keywords["steps"] == 2
    x = torch.rand(2, *SHAPE)
    assert torch.equal(attack.keywords["surrogate"](x), squeezenet[0]((x - MEAN) / STD))
    with pytest.raises(InputError, match=r"could not be built with its weights .*colour"):
        transfer_attack(parse_recipe("transfer:tv/squeezenet1_1,weights=DEFAULT,colour=red"), "cpu")


OWN = """
import torch

def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64 * 64, 1000))
"""


@pytest.mark.parametrize(
    "words",
    [
        ["attack", "MODEL", "--attack", "transfer:tv/squeezenet1_1,weights=DEFAULT,steps=1", "--eps", "4/255"],
        ["saliency", "MODEL", "--against", "transfer:tv/squeezenet1_1,weights=DEFAULT,steps=1", "--eps", "4/255"],
        ["corrupt", "MODEL", "--corruption", "contrast", "--severity", "1", "--reference", "tv/squeezenet1_1,weights=DEFAULT"],
    ],
)
def test_the_network_is_used_for_a_surrogate_and_a_reference_where_the_user_says_so(words, squeezenet, monkeypatch, tmp_path):
    file, kept = squeezenet[1], squeezenet[1].read_bytes()
    fetched = []

    def fetch(url, place, *_, **__):
        fetched.append(url)
        Path(place).write_bytes(kept)

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    file.unlink()
    (tmp_path / "own.py").write_text(OWN)
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).integers(0, 256, (4, 3, 64, 64), np.uint8), y=np.arange(4))
    call = [f"{tmp_path}/own.py:net" if word == "MODEL" else word for word in words]
    call += ["--data", f"npz:{tmp_path}/data.npz", "--classes", "as-is", "--quiet", "--out", str(tmp_path / "out")]
    said = refused(*call)
    assert file.name in said
    assert "--download" in said
    assert fetched == []
    robench(*call, "--download")
    assert len(fetched) == 1
    assert file.exists()


def test_the_data_may_have_fewer_classes_than_the_weights_and_not_more(squeezenet):
    loaded = load_with_origin("tv/squeezenet1_1,weights=DEFAULT", classes=10, shape=SHAPE)
    assert loaded.model(torch.rand(1, *SHAPE)).shape == (1, 1000)
    assert "the model has 1000 outputs, the data 10 classes" in loaded.notes[-1]
    with pytest.raises(InputError, match="the model has 1000 outputs, the data 1001 classes"):
        load_with_origin("tv/squeezenet1_1,weights=DEFAULT", classes=1001, shape=SHAPE)


def test_a_network_of_torchvision_is_built_as_its_weights_want_it(caches, monkeypatch):
    import torchvision

    network = torchvision.models.googlenet(aux_logits=True, transform_input=True, init_weights=True).eval()
    put_torch_weights(monkeypatch, torchvision.models.GoogLeNet_Weights.IMAGENET1K_V1, network.state_dict())
    loaded = load_with_origin("tv/googlenet,weights=DEFAULT", classes=1000, shape=SHAPE)
    x = torch.rand(2, *SHAPE)
    assert loaded.model[1].transform_input
    assert torch.equal(loaded.model(x), network((x - MEAN) / STD))


def test_a_missing_file_of_torch_is_named_with_its_folder(caches):
    with pytest.raises(
        InputError, match=r"needs the file resnet50-11ad3fa6.pth in .*torch/hub/checkpoints, .* --download .* from https://"
    ):
        load_with_origin("tv/resnet50,weights=DEFAULT", classes=10, shape=SHAPE)


def test_a_file_that_is_not_what_its_name_says_is_refused(squeezenet):
    file = squeezenet[1]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match=f"{file.name} in .* is damaged or another file: its name says .*, and its sha256 begins with"):
        load_with_origin("tv/squeezenet1_1,weights=DEFAULT", classes=10, shape=SHAPE)


def test_no_code_in_a_file_of_torchvision_runs(caches, monkeypatch):
    import torchvision

    put_torch_weights(monkeypatch, torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1, torchvision.models.squeezenet1_1())
    with pytest.raises(InputError, match="holds a pickled model or other code"):
        load_with_origin("tv/squeezenet1_1,weights=DEFAULT", classes=10, shape=SHAPE)


def test_a_missing_file_is_fetched_where_the_user_allows_it_with_its_hash(caches, monkeypatch):
    asked = []
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *what, **_: asked.append(what) or Path(what[1]).touch())
    with pytest.raises(InputError, match="damaged or another file"):  # it is empty
        load_with_origin("tv/resnet50,weights=DEFAULT", classes=10, shape=SHAPE, download=True)
    assert asked == [("https://download.pytorch.org/models/resnet50-11ad3fa6.pth", asked[0][1], "11ad3fa6")]


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("tv/resnet50,weights=IMAGENET1K_V3", "tv/resnet50 has no weights 'IMAGENET1K_V3': did you mean 'IMAGENET1K_V2'?"),
        ("tv/resnet50,weights=true", "tv/resnet50 has no weights True"),
        ("tv/resnet5,weights=DEFAULT", "unknown torchvision classifier 'resnet5': did you mean 'resnet50'?"),
        ("tv/vgg16,weights=IMAGENET1K_FEATURES", "no classes with the weights IMAGENET1K_FEATURES"),
        ("tv/resnet50,weights=DEFAULT,num_classes=10", "weights and classes of its own: leave num_classes=10 out"),
        ("timm/resnet18,pretrained=maybe", "pretrained is true or false, not 'maybe'"),
        ("timm/resnet18.nope,pretrained=true", "Invalid pretrained tag"),
        ("timm/resnet1,pretrained=true", "unknown timm model 'resnet1'"),
        ("timm/resnet18,pretrained=true,num_classes=3", "leave num_classes=3 out"),
        ("timm/hf-hub:a/b/c", "is no model of Hugging Face's hub"),
    ],
)
def test_names_that_stand_for_no_weights_are_refused_in_one_sentence(caches, source, sentence):
    if source.startswith("timm"):
        needed("timm")
    with pytest.raises(InputError) as caught:
        load_with_origin(source, classes=10, shape=SHAPE)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["tv/squeezenet1_1,weights=DEFAULT", "timm/test_vit,pretrained=true"])
def test_the_number_of_channels_and_a_normalisation_of_the_users_are_refused(squeezenet, source):
    needed("timm")
    with pytest.raises(InputError, match="takes images of 3 channels, not 1"):
        load_with_origin(source, classes=10, shape=(1, 64, 64))
    with pytest.raises(InputError, match="knows its own normalisation: leave --mean out"):
        load_with_origin(source, classes=10, shape=SHAPE, mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(InputError, match="names its own architecture: leave --arch out"):
        load_with_origin(source, classes=10, shape=SHAPE, arch="cnn")


# timm


TIMM_REPOSITORY = "timm/test_vit.r160_in1k"


@pytest.fixture
def test_vit(caches):
    """timm's smallest transformer with made weights."""
    return needed("timm").create_model("test_vit").eval()


@pytest.mark.parametrize("tag", ["", ".r160_in1k"])
def test_timm_weights_load_from_hugging_faces_cache_with_the_normalisation_of_their_config(test_vit, tag):
    put_hub_files(TIMM_REPOSITORY, {"model.safetensors": safetensors_bytes(test_vit)})
    loaded = load_with_origin(f"timm/test_vit{tag},pretrained=true", classes=1000, shape=(3, 160, 160))
    x = torch.rand(3, 3, 160, 160)
    config = test_vit.pretrained_cfg
    mean, std = (torch.tensor(config[key]).view(-1, 1, 1) for key in ("mean", "std"))
    assert torch.equal(loaded.model(x), test_vit((x - mean) / std))
    assert loaded.class_names[:2] == ("n01440764", "n01443537")
    assert len(loaded.class_names) == 1000
    assert "state_dict" not in loaded.model[1].pretrained_cfg


def test_older_files_of_timm_load_too_from_either_cache(test_vit, monkeypatch, caches):
    timm = needed("timm")
    torch.save(test_vit.state_dict(), caches / "file")
    put_hub_files(TIMM_REPOSITORY, {"pytorch_model.bin": (caches / "file").read_bytes()})
    loaded = load_with_origin("timm/test_vit,pretrained=true", classes=1000, shape=(3, 160, 160))
    assert torch.equal(loaded.model[1].head.weight, test_vit.head.weight)
    network = timm.create_model("gcvit_xxtiny").eval()
    address = timm.models.get_pretrained_cfg("gcvit_xxtiny.in1k").url
    place = caches / "torch" / "hub" / "checkpoints" / address.rpartition("/")[2]
    place.parent.mkdir(parents=True)
    torch.save({"state_dict": network.state_dict()}, place)
    with pytest.raises(InputError, match="its name says d1d86009"):
        load_with_origin("timm/gcvit_xxtiny,pretrained=true", classes=1000, shape=(3, 224, 224))


def test_a_missing_file_of_hugging_face_is_named_with_its_folder(caches):
    needed("timm")
    with pytest.raises(InputError, match=r"needs model.safetensors or pytorch_model.bin of timm/test_vit.r160_in1k in .*--download"):
        load_with_origin("timm/test_vit,pretrained=true", classes=10, shape=SHAPE)
    with pytest.raises(InputError, match=r"needs config.json of me/net at v2 in .*/models--me--net/snapshots, which is not there"):
        load_with_origin("timm/hf-hub:me/net@v2", classes=10, shape=SHAPE)


def hub_description(**more):
    """A config.json of a network with three classes, as timm writes it."""
    config = {
        "input_size": [3, 64, 64], "crop_pct": 0.9, "interpolation": "bicubic", "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6],
        "num_classes": 3, "first_conv": "stem.conv1", "classifier": "head.fc", "url": "https://elsewhere", "custom_load": True,
    }  # fmt: skip
    return {"architecture": "test_byobnet", "num_classes": 3, "pretrained_cfg": config, "label_names": ["ant", "bee", "cat"]} | more


def test_a_repository_in_timms_layout_loads_with_what_its_config_says(caches):
    network = moved_statistics(needed("timm").create_model("test_byobnet", num_classes=3))
    for config in (
        hub_description(),
        {**hub_description()["pretrained_cfg"], "architecture": "test_byobnet", "labels": ["ant", "bee", "cat"]},
    ):
        put_hub_files("me/net", {"model.safetensors": safetensors_bytes(network), "config.json": json_bytes(config)})
        loaded = load_with_origin("timm/hf-hub:me/net", classes=3, shape=SHAPE)
        x = torch.rand(2, *SHAPE)
        mean, std = (torch.tensor(numbers).view(-1, 1, 1) for numbers in ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6]))
        assert torch.equal(loaded.model(x), network((x - mean) / std))
        assert loaded.class_names == ("ant", "bee", "cat")


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (b"{", "a config.json that cannot be read"),
        (b"[]", "is none of timm's"),
        (json_bytes({"architectures": ["ViTForImageClassification"]}), "is none of timm's"),
        (json_bytes(hub_description(architecture="os.system")), "unknown timm model 'os.system'"),
        (json_bytes(hub_description(num_classes=0)), "has no classes"),
        (json_bytes(hub_description(num_classes=4)), r"could not be built with its weights .* size mismatch for head.fc.weight"),
        (json_bytes(hub_description(model_args={"checkpoint_path": "/x"})), "with the option checkpoint_path"),
        (json_bytes(hub_description(pretrained_cfg={"input_size": "wide"})), "says of its images what"),
    ],
)
def test_what_a_repository_holds_is_not_trusted(caches, config, sentence):
    network = needed("timm").create_model("test_byobnet", num_classes=3)
    put_hub_files("me/net", {"model.safetensors": safetensors_bytes(network), "config.json": config})
    with pytest.raises(InputError, match=sentence) as caught:
        load_with_origin("timm/hf-hub:me/net", classes=3, shape=SHAPE)
    assert "\n" not in str(caught.value)


def test_a_file_of_the_hub_that_was_changed_is_refused(test_vit):
    folder = put_hub_files(TIMM_REPOSITORY, {"model.safetensors": safetensors_bytes(test_vit)})
    blob = (folder / "model.safetensors").resolve()
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    with pytest.raises(InputError, match=r"is damaged or another file: the cache keeps it as model.safetensors of timm/test_vit"):
        load_with_origin("timm/test_vit,pretrained=true", classes=10, shape=(3, 160, 160))
