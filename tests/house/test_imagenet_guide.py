"""docs/imagenet.md: every command of the page is run, section by section, on made sets that lie as the real ones do.

Networks are exchanged for small ones with made weights in the caches of torchvision and timm, long attacks for short ones, and eighty
gigabytes for fourteen images: SUBSTITUTES says all of it. What a network answers is known (`made_imagenet.colour_network`).
"""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commandline import read, robench
from made_imagenet import (
    COLOURS,
    WNIDS,
    N,
    colour_network,
    only,
    put_archives,
    put_containers,
    put_corrupted,
    put_kin,
    put_lists,
    put_training,
    share_right,
)
from needed import needed
from places import DOCS
from weight_caches import json_bytes, put_hub_files, put_torch_weights, safetensors_bytes, use_empty_caches

from robench.core.corruption_names import EXTRA, FAMILIES, ON_DISK
from robench.core.perturbation_names import TEN, is_noise
from robench.data.imagenet import imagenet_classes
from robench.results.corruption_errors import ALEXNET

PAGE = (DOCS / "imagenet.md").read_text()
SECTIONS = {int(number): text for number, text in re.findall(r"^## (\d+)\. (.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)}
MOBILENET, SHUFFLENET = "tv/mobilenet_v3_small,weights=IMAGENET1K_V1", "tv/shufflenet_v2_x0_5,weights=IMAGENET1K_V1"
LCNET = "timm/lcnet_050.ra2_in1k,pretrained=true"
SUBSTITUTES = {  # what stands on the page: what is run here
    "tv/resnet50,weights=IMAGENET1K_V2": MOBILENET,
    "tv/resnet50,weights=IMAGENET1K_V1": SHUFFLENET,
    "tv/alexnet,weights=IMAGENET1K_V1": MOBILENET,
    "rb/Salman2020Do_R18,dataset=imagenet,threat=Linf": SHUFFLENET,  # tests/models/test_robustbench_zoo.py has rb/
    "timm/vit_small_patch16_224.augreg_in21k_ft_in1k,pretrained=true": LCNET,
    "--arch tv/resnet50": "--arch tv/shufflenet_v2_x0_5",
    "{00..63}": "{00..06}",
    "--suite autoattack": "--suite fgsm",
    "--resize 256 --image-size 224 --objective standard": "--resize 36 --image-size 32 --objective standard",
    "--epochs 90": "--epochs 1 --suite fgsm --eval-n 4 --batch-size 50",
}
COSTLY = re.compile(r"(--data folder:(imagenet-[ar]|imagenetv2\S*|sketch|imagenet-100)) --n all")
CHECKED = {}


def commands(section):
    """The commands of a section, as they stand there."""
    return [line for block in re.findall(r"```sh\n(.*?)```", SECTIONS[section], re.DOTALL) for line in block.splitlines()]


def checked(section):
    """Puts a function into CHECKED: what has to hold once the commands of a section have run."""

    def put(function):
        CHECKED[section] = function
        return function

    return put


def substituted(line):
    """A command of the page as it is run here."""
    for there, here in SUBSTITUTES.items():
        line = line.replace(there, here)
    return COSTLY.sub(r"\1 --n 12", line)


def run_command(line, code):
    """Runs a command of the page; what it said."""
    first, *words = shlex.split(substituted(line))
    if first == "robench":
        return robench(*words, *(["--threads", 1] if words[0] != "compare" else []), code=code).output
    if first == "torchrun":
        line = f"{sys.executable} -m torch.distributed.run {substituted(line).removeprefix('torchrun ')} --threads 1"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def put_weights(patch, hub):
    """The networks of SUBSTITUTES in the caches of their libraries, and one of them as a file of one's own."""
    timm = needed("timm")
    import torchvision

    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    for name, enum in (("mobilenet_v3_small", "MobileNet_V3_Small_Weights"), ("shufflenet_v2_x0_5", "ShuffleNet_V2_X0_5_Weights")):
        network = colour_network(torchvision.models.get_model(name), mean, std)
        put_torch_weights(patch, getattr(torchvision.models, enum).IMAGENET1K_V1, network.state_dict())
    torch.save({"state_dict": network.state_dict()}, "mine.pth")
    network = colour_network(timm.create_model("lcnet_050"), mean, std)
    config = {"architecture": "lcnet_050", "num_classes": 1000, "pretrained_cfg": {**network.pretrained_cfg, "num_classes": 1000}}
    put_hub_files("timm/lcnet_050.ra2_in1k", {"config.json": json_bytes(config), "model.safetensors": safetensors_bytes(network)})
    return hub


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with everything that somebody has downloaded, in which the test stands."""
    for package in ("timm", "pyarrow", "webdataset", "huggingface_hub"):
        needed(package)
    folder = tmp_path_factory.mktemp("imagenet-guide")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        use_empty_caches(patch, folder / "caches")
        patch.setenv("HF_HOME", str(folder / "caches"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr("robench.data.corrupted_trees.TREES", {(1000, N + 990, 224): "imagenet-c"})
        torch.manual_seed(0)
        put_weights(patch, folder / "caches" / "hub")
        put_archives(folder)
        put_containers(folder, folder / "caches" / "hub")
        put_lists(folder)
        for line in commands(1):
            if not line.startswith("robench"):
                run_command(line, 0)
        yield folder


@pytest.fixture(scope="module")
def corrupted_trees(world):
    """ImageNet-C with all 1,000 classes, C-bar and 3DCC with ten, and ImageNet-P."""
    av = needed("av")
    groups = [f"{family}/{name}" for family, names in FAMILIES.items() for name in names] + [f"extra/{name}" for name in EXTRA]
    others = sorted({one.wnid for one in imagenet_classes()} - {*WNIDS})
    put_corrupted(world / "ImageNet-C", groups, world / "store-c", others)
    put_corrupted(world / "ImageNet-C-bar", ON_DISK["imagenet-c-bar"], world / "store-c-bar")
    put_corrupted(world / "ImageNet-3DCC", ON_DISK["imagenet-3dcc"], world / "store-3dcc")
    for name in TEN:
        for k in range(2):
            path = world / "ImageNet-P" / "noise" / name / WNIDS[k] / f"ILSVRC2012_val_0000000{k}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            with av.open(str(path), "w") as container:
                stream = container.add_stream("libx264", rate=1, options={"crf": "1"})
                stream.width, stream.height, stream.pix_fmt = 224, 224, "yuv444p"
                for colour in (k, k, k + 1, k + 1):
                    frame = np.broadcast_to(np.array(COLOURS[colour], np.uint8), (224, 224, 3))
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
                container.mux(stream.encode())
    return world


@pytest.mark.parametrize("section", [number for number in SECTIONS if commands(number)])
def test_the_commands_of_a_section_run_and_give_what_the_made_sets_must_give(section, world, request):
    if section == 6:
        request.getfixturevalue("corrupted_trees")
    if section == 7 and not (world / "sketch").exists():
        put_kin(world)
    if section == 9 and not (world / "imagenet-100").exists():
        put_training(world / "imagenet-100")
    said = [run_command(line, 0) for line in commands(section) if line.startswith(("robench", "torchrun"))]
    CHECKED[section](said)


def clean_of(folder, **more):
    """Clean accuracy in the rows of a run."""
    return float(only(read(Path(folder) / "rows.csv"), probe="clean", metric="accuracy", **more)["value"])


def test_every_section_with_commands_says_what_must_come_out():
    assert {number for number in SECTIONS if commands(number)} == CHECKED.keys()
    assert all(there in PAGE for there in SUBSTITUTES)


def test_the_published_accuracies_on_the_page_are_those_in_torchvisions_weights():
    import torchvision

    published = re.findall(r"^\| `tv/(\w+),weights=(\w+)` \| ([\d.]+) \|$", PAGE, re.MULTILINE)
    assert len(published) == 5
    for name, weights, accuracy in published:
        entry = torchvision.models.get_model_weights(name)[weights]
        assert entry.meta["_metrics"]["ImageNet-1K"]["acc@1"] == float(accuracy), name


@checked(1)
def every_layout_holds_the_same_images_and_labels(said):
    digests = set()
    for name in ("folder", "kaggle", "parquet", "shards"):
        images = read(Path("look") / name / "images.csv")
        digests.add(frozenset(line["pixels"] for line in images))
        places = [int(re.search(r"val_(\d{8})", line["file"])[1]) - 1 for line in images]
        assert clean_of(f"look/{name}") == share_right(places), name


@checked(2)
def own_weights_are_right_where_they_must_be(said):
    assert clean_of("look/mine") == share_right(range(8))


@checked(3)
def a_plan_writes_nothing(said):
    assert "passes" in said[0]
    assert not Path("results").exists() or not list(Path("results").glob("*mobilenet*"))


@checked(4)
def both_models_have_the_known_accuracy(said):
    for model in (MOBILENET, LCNET):
        assert clean_of("results/clean", checkpoint=model) == pytest.approx(share_right(range(N)))


@checked(5)
def the_listed_images_are_measured_and_runs_agree(said):
    rows = read(Path("results/autoattack/rows.csv"))
    clean = [row for row in rows if row["probe"] == "clean" and row["metric"] == "accuracy"]
    assert [(float(row["value"]), row["n"]) for row in clean] == [(share_right((9, 2, 3, 0, 12, 7, 5, 1)), "8")] * 2
    assert clean_of("results/overnight") == clean_of("results/shared") == share_right((9, 2, 3, 0, 12, 7, 5, 1))


@checked(6)
def errors_and_ratios_are_those_by_hand(said):
    errors = [1 - share_right(range(N), severity) for severity in range(1, 6)]
    rows = read(Path("results/imagenet-c/rows.csv"))
    assert float(only(rows, metric="mean_corruption_error")["value"]) == pytest.approx(np.mean(errors))
    by_hand = np.mean([np.mean(errors) / error for error in ALEXNET.values()])
    assert float(only(rows, metric="mce")["value"]) == pytest.approx(by_hand, rel=1e-6)
    for name in ("imagenet-c-bar", "imagenet-3dcc"):
        rows = read(Path("results") / name / "rows.csv")
        found = [row for row in rows if row["metric"] == "mean_corruption_error"]
        assert [float(row["value"]) for row in found] == pytest.approx([np.mean(errors)] * len(found))
        assert found
    assert [float(row["value"]) for row in rows if row["metric"] == "ce"] == pytest.approx([1] * 12)  # the reference errs as the model does
    rows = read(Path("results/imagenet-p/rows.csv"))
    flips = np.mean([2 / 3 if is_noise(name) else 1 / 3 for name in TEN])
    found = [float(row["value"]) for row in rows if row["metric"] == "mean_flip_probability"]
    assert found == pytest.approx([flips] * len(found))
    assert float(only(rows, metric="mfr")["value"]) == pytest.approx(1)


@checked(7)
def outputs_are_those_of_each_sets_authors(said):
    outputs = {name: [row["value"] for row in read(Path("results") / name / "rows.csv") if row["metric"] == "outputs"] for name in
               ("imagenet-a", "imagenet-r", "imagenet-v2", "sketch")}  # fmt: skip
    assert {float(value) for value in outputs["imagenet-a"] + outputs["imagenet-r"]} == {200.0}


@checked(8)
def other_crops_are_told_and_clean_accuracy_is_the_same(said):
    assert clean_of("results/a") == clean_of("results/b") == pytest.approx(share_right(range(N)))
    assert "matched by id" in " ".join(said[2].split())


@checked(9)
def the_checkpoint_knows_its_classes_and_preprocessing(said):
    kept = torch.load("imagenet-100.pt", weights_only=True)["meta"]
    assert len(kept["classes"]) == 100
    assert "Tian, Krishnan and Isola" in " ".join(said[0].split())
    used = json.loads(Path("results/imagenet-100/manifest.json").read_text())["data"]["preprocessing"]
    assert (used["resize"], used["crop"]) == (36, [32, 32])
    assert len(read(Path("results/imagenet-100/images.csv"))) == 12
