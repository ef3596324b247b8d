"""torchvision's ResNet-50 and timm's ViT-S/16 by name, with made weights, on made pictures of odd sizes.

What `robench eval` measures is what their libraries' own pipelines give.
"""

import csv
from pathlib import Path

import pytest
import torch
from needed import needed
from odd_pictures import ODD_PICTURES, made_picture
from PIL import Image
from torch.nn.modules.module import register_module_forward_hook
from weight_caches import moved_statistics, put_hub_files, put_torch_weights, safetensors_bytes, use_empty_caches

from robench.cli import app

pytestmark = pytest.mark.timm
WNIDS = ("n01440764", "n01443537", "n01484850")  # the first three of ImageNet's classes


@pytest.fixture
def tree(tmp_path):
    """A folder of pictures by their wnids, and the files with their labels in the order of use."""
    names = list(ODD_PICTURES)
    for place, wnid in enumerate(WNIDS):
        (tmp_path / "tree" / wnid).mkdir(parents=True)
        for name in names[place :: len(WNIDS)]:
            made_picture(name, tmp_path / "tree" / wnid)
    of_class = [sorted((tmp_path / "tree" / wnid).iterdir()) for wnid in WNIDS]
    return tmp_path / "tree", [(path, place) for turn in zip(*of_class, strict=True) for place, path in enumerate(turn)]


def torchvision_model(monkeypatch):
    """The source of a ResNet-50 with made weights, the network, and torchvision's own transforms."""
    import torchvision

    entry = torchvision.models.ResNet50_Weights.IMAGENET1K_V2
    torch.manual_seed(0)
    network = moved_statistics(torchvision.models.resnet50())
    put_torch_weights(monkeypatch, entry, network.state_dict())
    return "tv/resnet50,weights=DEFAULT", network, entry.transforms()


def timm_model(_):
    """The source of a ViT-S/16 with made weights, the network, and timm's own transforms."""
    timm = needed("timm")
    torch.manual_seed(0)
    network = timm.create_model("vit_small_patch16_224").eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, 0, 0.05) if parameter.dim() > 1 else None
    put_hub_files("timm/vit_small_patch16_224.augreg_in21k_ft_in1k", {"model.safetensors": safetensors_bytes(network)})
    own = timm.data.create_transform(**timm.data.resolve_model_data_config(network), is_training=False)
    return "timm/vit_small_patch16_224,pretrained=true", network, own


@pytest.fixture
def calls():
    """Every call of a whole network during the test: its class, its input and its output."""
    seen = []
    hook = register_module_forward_hook(lambda module, inputs, output: seen.append((type(module), inputs[0], output)))
    yield seen
    hook.remove()


@pytest.mark.parametrize("made", [torchvision_model, timm_model])
def test_the_whole_command_measures_what_the_librarys_own_pipeline_gives(made, monkeypatch, tree, tmp_path, capsys, calls):
    needed("huggingface_hub")
    use_empty_caches(monkeypatch, tmp_path)
    source, network, own = made(monkeypatch)
    folder, files = tree
    inputs = torch.stack([own(Image.open(path).convert("RGB")) for path, _ in files])
    with torch.no_grad():
        logits = torch.cat([network(one[None]) for one in inputs])
    calls.clear()
    suite = "random-noise,t=0.1,repeats=1"
    with pytest.raises(SystemExit) as end:
        app(["eval", source, "--data", f"folder:{folder}", "--suite", suite, "--out", str(tmp_path / "out")])
    printed = capsys.readouterr().err
    assert end.value.code == 0, printed
    with Path(tmp_path / "out" / "samples.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [int(line["label"]) for line in lines] == [label for _, label in files]
    assert [int(line["clean_pred"]) for line in lines] == logits.argmax(1).tolist()
    measured = [z for kind, x, z in calls if kind is type(network) and len(x) >= len(files) and torch.equal(x[: len(files)], inputs)]
    assert measured, "the network never saw the pixels of its library, normalised as the library does it"
    assert all(float((z[: len(files)] - logits).abs().max()) <= 1e-5 * float(logits.abs().max()) for z in measured)
