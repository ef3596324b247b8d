"""Models of RobustBench's zoo, loaded from made weights in the places where its package keeps them."""

import sys

import numpy as np
import pytest
import torch
from commandline import read, refused, robench
from needed import needed_package
from PIL import Image

from robench.core.decoding import decoded_item
from robench.core.errors import InputError
from robench.models import load_with_origin
from robench.models.preprocessing import model_preprocessing
from robench.models.robustbench_zoo import autoattack_by_its_old_name, robustbench_part, zoo_model_of

SMALL, OPTIONS = "Hendrycks2020AugMix_WRN", "dataset=cifar10,threat=corruptions"  # a WideResNet-40-2 of 2.2 million weights
ROBUST_RESNET = "rb/Salman2020Do_R18,dataset=imagenet,threat=Linf"

robustbench = pytest.mark.robustbench


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder as the current one, with torch's cache in it, for tests that need robustbench."""
    needed_package("robustbench")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path


def pixels(n=4, side=32):
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0))


def made(source):
    """The network that robustbench builds for a name, with random weights."""
    torch.manual_seed(1)
    network = zoo_model_of(source).entry["model"]()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return network.eval()


def kept(folder, source, content, ending=""):
    """Writes a file of weights to where robustbench would put it."""
    zoo_model = zoo_model_of(source)
    path = folder / zoo_model.dataset / zoo_model.threat / f"{zoo_model.name}.pt{ending}"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


@robustbench
def test_weights_are_read_from_robustbenchs_own_folder_and_their_names_are_mended_as_it_does(here):
    source = f"rb/{SMALL},{OPTIONS}"
    network = made(source)
    without = {f"module.{key}": value for key, value in network.state_dict().items() if key not in ("mu", "sigma")}  # as in the zoo's file
    kept(here / "models", source, {"state_dict": without})
    loaded = load_with_origin(source)
    assert torch.equal(loaded.model(pixels()), network(pixels()))
    with autoattack_by_its_old_name():
        own = robustbench_part("utils").load_model(SMALL, dataset="cifar10", threat_model="corruptions")
    assert torch.equal(loaded.model(pixels()), own(pixels()))
    assert loaded.name == source
    assert not loaded.model.training


@robustbench
def test_a_run_through_the_command_names_the_model_in_its_rows_without_the_folder(here, no_pictures):
    source = f"rb/{SMALL},{OPTIONS}"
    kept(here / "elsewhere", source, {"state_dict": made(source).state_dict()})
    call = ("--data", "shapes", "--suite", "fgsm", "--n", 4, "--out", "run", "--quiet")
    robench("eval", f"{source},model_dir={here / 'elsewhere'}", *call)
    assert {row["checkpoint"] for row in read(here / "run" / "rows.csv")} == {source}
    assert str(here) not in (here / "run" / "rows.csv").read_text()


@robustbench
def test_a_model_of_imagenet_is_normalised_inside(here):
    network = made(ROBUST_RESNET)
    kept(here / "models", ROBUST_RESNET, {"state_dict": {f"module.model.{key}": v for key, v in network.model.state_dict().items()}})
    loaded = load_with_origin(ROBUST_RESNET)
    x = pixels(2, 64)
    expected = network.model((x - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1))
    assert torch.equal(loaded.model(x), expected)


@robustbench
def test_a_model_that_robustbench_has_from_timm_lies_in_torchs_cache(here):
    source = "rb/Debenedetti2022Light_XCiT-S12"
    with pytest.raises(InputError, match=r"torch/hub/checkpoints/debenedetti2022light-xcit-s-cifar10-linf\.pth\.tar, which is not there"):
        load_with_origin(source)
    import timm

    torch.manual_seed(1)
    network = timm.create_model("debenedetti2022light_xcit_s12_cifar10_linf", num_classes=10)
    file = here / "torch" / "hub" / "checkpoints" / "debenedetti2022light-xcit-s-cifar10-linf.pth.tar"
    file.parent.mkdir(parents=True)
    torch.save({"model": network.model.state_dict()}, file)
    assert torch.equal(load_with_origin(source).model(pixels(2)), network.eval()(pixels(2)))


@robustbench
def test_the_standard_model_of_imagenet_is_torchvisions(here):
    with pytest.raises(
        InputError, match=r"tv/resnet50,weights=IMAGENET1K_V1 needs the file resnet50-0676ba61.pth in \S+/torch/hub/checkpoints"
    ):
        load_with_origin("rb/Standard_R50,dataset=imagenet,threat=corruptions")


@robustbench
@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("rb/Carmon2019Unlabelled", "no model 'Carmon2019Unlabelled' of cifar10 in Linf: did you mean 'Carmon2019Unlabeled'?"),
        (f"rb/{SMALL}", f"write rb/{SMALL},dataset=cifar10,threat=corruptions or dataset=cifar100,threat=corruptions"),
        ("rb/Standard_R50,dataset=imagenet,threat=L2", "no models of imagenet in L2: write .*,threat=Linf or corruptions"),
        ("rb/X,dataset=cifar", "no models of the data set 'cifar': did you mean 'cifar10'?"),
        ("rb/X,treat=L2", "no option 'treat': did you mean 'threat'?"),
        ("rb/Carmon2019Unlabeled", r"needs \S+/models/cifar10/Linf/Carmon2019Unlabeled.pt, which is not there.*--download"),
        ("rb/Carmon2019Unlabeled,threat=linf,model_dir=w", r"needs \S+/w/cifar10/Linf/Carmon2019Unlabeled.pt"),
        ("rb/Bai2024MixedNUTS", r"needs \S+/models/cifar10/Linf/Bai2024MixedNUTS.pt_m0.pt"),
    ],
)
def test_what_is_not_there_gets_one_sentence(here, source, sentence):
    with pytest.raises(InputError, match=sentence.replace("?", r"\?")):
        load_with_origin(source)
    assert [*here.iterdir()] == []


def imagenet_names():
    """Every model of ImageNet in the zoo, with its threat."""
    zoo = robustbench_part("model_zoo").model_dicts
    return [(name, threat.value) for data in zoo if data.value == "imagenet" for threat in zoo[data] for name in zoo[data][threat]]


@robustbench
def test_pixels_of_a_file_are_those_of_robustbenchs_own_loader_for_every_model_of_imagenet(here):
    data, seen = robustbench_part("data"), set()
    for side in (501, 333):
        small = np.random.default_rng(side).integers(0, 256, (side // 7, 61, 3), dtype=np.uint8)
        Image.fromarray(small).resize((419, side), Image.Resampling.BICUBIC).save(here / f"{side}.jpg", quality=90)
    for name, threat in imagenet_names():
        preprocessing = model_preprocessing(f"rb/{name},dataset=imagenet,threat={threat}")
        zoo_model = zoo_model_of(f"rb/{name},dataset=imagenet,threat={threat}")
        if zoo_model.timm_name and not name.endswith(("-S12", "-S", "AlexNet")):  # robustbench builds a whole network to ask it
            continue
        kind = zoo_model.entry.get("preprocessing")
        own = data.get_timm_model_preprocessing(zoo_model.timm_name) if zoo_model.timm_name else data.PREPROCESSINGS[kind]
        if preprocessing not in seen:
            for path in here.glob("*.jpg"):
                with Image.open(path) as image:
                    expected = own(image.convert("RGB"))
                assert torch.equal(torch.from_numpy(decoded_item(("file", str(path)), preprocessing)).float() / 255, expected)
        seen.add(preprocessing)
    assert len(seen) >= 4
    assert model_preprocessing(f"rb/{SMALL},{OPTIONS}") is None


class Trap:
    """Something whose unpickling writes a file."""

    def __reduce__(self):
        return (open, ("trapped", "w"))


@robustbench
@pytest.mark.parametrize("forced", [False, True])
def test_a_file_with_code_in_it_is_refused_whatever_the_environment_says(here, monkeypatch, forced):
    source = f"rb/{SMALL},{OPTIONS}"
    kept(here / "models", source, {"state_dict": made(source).state_dict(), "more": Trap()})
    if forced:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    said = refused("eval", source, "--data", "shapes", "--n", 4, "--out", "run")
    assert f"{SMALL}.pt holds a pickled model or other code" in said
    assert not (here / "trapped").exists()


@robustbench
def test_weights_of_another_network_get_one_sentence(here):
    source = f"rb/{SMALL},{OPTIONS}"
    kept(here / "models", source, {"state_dict": {"conv1.weight": torch.zeros(3, 3, 3, 3)}})
    with pytest.raises(InputError, match=f"rb/{SMALL},{OPTIONS} could not be loaded: RuntimeError"):
        load_with_origin(source)
    path = kept(here / "models", source, {"state_dict": made(source).state_dict()})
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError, match=f"{SMALL}.pt is cut off"):
        load_with_origin(source)


@robustbench
def test_options_that_a_model_of_the_zoo_brings_itself_are_refused(here):
    for option in ({"mean": (0.5,), "std": (0.5,)}, {"arch": "cnn"}, {"weights": "ema"}):
        with pytest.raises(InputError, match=f"leave --{next(iter(option))} out"):
            load_with_origin(f"rb/{SMALL},{OPTIONS}", **option)


def test_without_the_package_a_name_of_the_zoo_gets_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "robustbench", None)
    for name in ("robustbench.model_zoo", "robustbench.utils"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(InputError, match=r"robustbench, which is not installed: pip install robustbench"):
        load_with_origin("rb/Carmon2019Unlabeled")
