"""A classifier of ImageNet on sets with some of its classes: labels by wnid, over all outputs or over those of the set."""

import numpy as np
import pytest
import torch
import trees
from commandline import read, refused, robench
from torch import nn

from robench.core.errors import InputError
from robench.data.class_names import LabelMapping
from robench.data.imagenet import imagenet_classes, index_of_wnids
from robench.models import LoadedModel, build_network
from robench.models.output_choice import ChosenOutputs, with_chosen_outputs

SIDE = 8
WNIDS = ["n01440764", "n02123045", "n03126707"]  # tench, tabby, the crane that is a machine
TRAP = "n15075141"  # an output beside, which explains an image of the first class
LEVELS = dict(zip([*WNIDS, TRAP], (40, 90, 140, 55), strict=True))


def grey(level):
    return np.full((SIDE, SIDE, 3), level, np.uint8)


@pytest.fixture
def tree(tmp_path):
    """Class folders of the three: nine images, one of them nearer to the trap's level than to its own."""
    images = [(grey(LEVELS[wnid] + shift), wnid) for shift in (0, 1, 2) for wnid in WNIDS]
    images[0] = (grey(50), WNIDS[0])
    return f"folder:{trees.wnid_folders(tmp_path / 'set', images)}"


@pytest.fixture
def model(tmp_path):
    """Weights of a network with 1,000 outputs, of which four win where an image has their level."""
    network = build_network("mlp,width=1", classes=1000, shape=(3, SIDE, SIDE))
    state, index = network.state_dict(), index_of_wnids()
    first, *_, weight, bias = state
    state[first].fill_(1 / (3 * SIDE * SIDE))
    for key in state.keys() - {first}:
        state[key].fill_(0.0)
    state["3.weight"].fill_(1.0)
    state[bias].fill_(-9.0)
    for wnid, level in LEVELS.items():
        state[weight][index[wnid], 0], state[bias][index[wnid]] = level / 255, -((level / 255) ** 2) / 2
    torch.save(state, tmp_path / "net.pth")
    return tmp_path / "net.pth"


def rows_of(folder):
    return read(folder / "rows.csv")


def value(folder, probe, metric):
    return next((float(row["value"]) for row in rows_of(folder) if (row["probe"], row["metric"]) == (probe, metric)), None)


def samples_of(folder):
    return read(folder / "samples.csv")


def test_labels_are_put_on_their_outputs_of_a_thousand_and_over_all_or_over_those_of_the_data(tmp_path, tree, model):
    words = ["eval", model, "--arch", "mlp,width=1", "--data", tree, "--suite", "fgsm", "--eps", "0.002"]
    said = " ".join(robench(*words, "--out", tmp_path / "all").stderr.split())
    assert "were put on the outputs of net.pth by their wnids, whose 1,000 outputs were read as ImageNet's classes" in said
    assert "label k is taken for output k" not in said
    assert value(tmp_path / "all", "clean", "accuracy") == pytest.approx(8 / 9)
    assert value(tmp_path / "all", "clean", "outputs") is None
    index = index_of_wnids()
    assert [int(row["label"]) for row in samples_of(tmp_path / "all")] == [index[wnid] for wnid in WNIDS] * 3
    assert samples_of(tmp_path / "all")[0]["clean_pred"] == str(index[TRAP])

    result = robench(*words, "--outputs", "data", "--out", tmp_path / "data")
    said = " ".join(result.stderr.split())
    assert "the label is chosen among the 3 outputs of the classes of folder:set alone, as --outputs says; --outputs all takes all" in said
    assert "labels among the 3 outputs of the data's classes" in " ".join(result.stdout.split())
    assert value(tmp_path / "data", "clean", "accuracy") == 1.0
    assert value(tmp_path / "data", "clean", "outputs") == 3
    assert {row["data"] for row in rows_of(tmp_path / "data")} == {"folder:set"}
    assert [int(row["label"]) for row in samples_of(tmp_path / "data")] == [0, 1, 2] * 3
    assert "the number of outputs among which labels are chosen (--outputs) is all in BASE and 3 in NEW" in refused(
        "compare", tmp_path / "all", tmp_path / "data"
    )


@pytest.mark.parametrize("words", [["saliency", "--method", "saliency"], ["corrupt", "--corruption", "brightness", "--severity", "1"],
                                   ["attack", "--attack", "apgd-ce,steps=5", "--eps", "0.01"]])  # fmt: skip
def test_every_command_takes_the_outputs_of_the_data(tmp_path, tree, model, words):
    robench(words[0], model, *words[1:], "--arch", "mlp,width=1", "--data", tree, "--outputs", "data", "--out", tmp_path / "out")
    assert value(tmp_path / "out", "clean", "outputs") == 3
    assert value(tmp_path / "out", "clean", "accuracy") in (None, 1.0)


def test_a_state_over_all_outputs_does_not_go_on_over_some(tmp_path, tree, model):
    words = ["attack", model, "--arch", "mlp,width=1", "--data", tree, "--attack", "fgsm", "--eps", "0.002", "--out", tmp_path / "out"]
    robench(*words)
    assert "outputs" in refused(*words, "--outputs", "data", "--resume") or "other" in refused(*words, "--outputs", "data", "--resume")


def test_label_maps_and_strays_on_the_command_line(tmp_path, tree, model):
    words = ["attack", model, "--arch", "mlp,width=1", "--data", tree, "--attack", "fgsm", "--eps", "0"]
    index = index_of_wnids()
    good = trees.put_label_map(
        tmp_path / "good.csv", [("n01440764", 0), ("n02123045", "tabby, tabby cat"), ("n03126707", index["n03126707"])]
    )
    assert "the label map put the 3 classes of folder:set on outputs of net.pth" in " ".join(
        robench(*words, "--label-map", good, "--out", tmp_path / "good").stderr.split()
    )
    assert value(tmp_path / "good", "clean", "accuracy") == pytest.approx(8 / 9)
    bad = trees.put_label_map(tmp_path / "bad.json", [("n01440764", 0), ("n02123045", 0), ("n03126707", 5)])
    assert "not one to one: 'n01440764' and 'n02123045' both have output 0 of net.pth" in refused(*words, "--label-map", bad)
    beyond = trees.put_label_map(tmp_path / "beyond.json", [("n01440764", 1000), ("n02123045", 0), ("n03126707", 5)])
    assert "gives 'n01440764' output 1000, and net.pth has outputs 0 to 999" in refused(*words, "--label-map", beyond)
    assert "leave --classes out" in refused(*words, "--label-map", good, "--classes", "as-is")
    assert "unknown choice of outputs 'some'" in refused(*words, "--outputs", "some")
    trees.put_image(tmp_path / "set/val/n99999999/x.png", grey(3))
    assert "no output of net.pth stands for the class 'n99999999' of folder:set" in refused(*words)


def test_the_authors_of_the_set_decide_where_the_user_does_not():
    one = LoadedModel(nn.Flatten(), "net", "", {}, (), outputs=6)
    labels = LabelMapping([4, 1], tuple("abcdef"), ["the note, and all 6 outputs compete"])
    for asked, authors, chosen in (
        (None, "data", True),
        (None, "", False),
        ("all", "data", False),
        ("data", "", True),
        (None, "all", False),
    ):
        [model], found = with_chosen_outputs([one], labels, asked, authors, "toy")
        assert isinstance(model.model, ChosenOutputs) == chosen
        assert (found.outputs, found.classes) == (([1, 0], ("b", "e")) if chosen else ([4, 1], tuple("abcdef")))
    assert "as its authors do" in with_chosen_outputs([one], labels, None, "data", "toy")[1].notes[-1]
    assert "--outputs data does that" in with_chosen_outputs([one], labels, "all", "data", "toy")[1].notes[-1]
    assert with_chosen_outputs([one], LabelMapping(list(range(6)), tuple("abcdef"), []), "data", "", "toy")[0] == [one]
    with pytest.raises(InputError, match="unknown choice of outputs"):
        with_chosen_outputs([one], labels, "most", "", "toy")


def test_chosen_outputs_are_logits_and_gradients_of_these_alone():
    torch.manual_seed(0)
    network, x = nn.Sequential(nn.Flatten(), nn.Linear(12, 7)), torch.rand(5, 3, 2, 2, requires_grad=True)
    some = ChosenOutputs(network, [6, 2, 3])
    assert torch.equal(some(x), network(x)[:, [6, 2, 3]])
    [gradient] = torch.autograd.grad(nn.functional.cross_entropy(some(x), torch.zeros(5, dtype=torch.int64)), x)
    [known] = torch.autograd.grad(nn.functional.cross_entropy(network(x)[:, [6, 2, 3]], torch.zeros(5, dtype=torch.int64)), x)
    assert torch.equal(gradient, known)


def test_imagenet_a_is_evaluated_over_its_classes_unless_the_user_says_otherwise(tmp_path, model):
    wnids = [one.wnid for one in imagenet_classes() if "a" in one.sets]
    folder = trees.sketch(tmp_path / "imagenet-a", trees.made_images(200, wnids=wnids, side=SIDE))
    words = ["attack", model, "--arch", "mlp,width=1", "--data", f"folder:{folder}", "--attack", "fgsm", "--eps", "0"]
    said = " ".join(robench(*words, "--out", tmp_path / "out").stderr.split())
    assert "among the 200 outputs of the classes of folder:sketch alone, as its authors do" in said
    assert value(tmp_path / "out", "clean", "outputs") == 200


def verdicts_of(folder):
    """What became of each image, in an order that does not depend on ids: class, predictions and margin."""
    return sorted((row["label"], row["clean_pred"], row["adv_pred"], row["broken_by"], row["clean_margin"]) for row in samples_of(folder))


@pytest.fixture(scope="module")
def net_of_cifar(tmp_path_factory):
    """A small network with ImageNet's 1,000 outputs for images of 32 pixels, with drawn weights."""
    torch.manual_seed(0)
    network = build_network("cnn", classes=1000, shape=(3, 32, 32))
    path = tmp_path_factory.mktemp("net") / "net.pth"
    torch.save(network.state_dict(), path)
    return path


def attacked(model, folder, out, *more):
    robench(
        "attack", model, "--arch", "cnn", "--data", f"folder:{folder}", "--attack", "fgsm", "--eps", "1/255", "--out", out, "--outputs",
        "data", *more,
    )  # fmt: skip
    return verdicts_of(out)


@pytest.mark.parametrize("layout", [name for name in trees.TREES if name != "wnid_folders"])
def test_real_images_get_the_same_verdicts_in_every_layout(tmp_path, data_dir, net_of_cifar, layout):
    images = trees.cifar_images(40, data_dir)
    known = attacked(net_of_cifar, trees.wnid_folders(tmp_path / "known", images), tmp_path / "out-known")
    assert len({verdict[0] for verdict in known}) > 5
    assert attacked(net_of_cifar, trees.TREES[layout](tmp_path / layout, images), tmp_path / "out") == known
