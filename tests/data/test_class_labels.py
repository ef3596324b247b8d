"""Which output stands for which label: class names in checkpoints, numbered folders, models with more outputs than the data has classes."""

import json

import numpy as np
import pytest
import torch
from commandline import read, refused, robench
from PIL import Image

from robench import data
from robench.core.errors import InputError
from robench.data.class_names import classes_by_number, ordered_classes, outputs_for
from robench.models import build_network, checkpoint, checkpoint_meta

ANIMALS = ("ant", "bee", "cat")
LEVELS = {name: 20 + 15 * place for place, name in enumerate((*ANIMALS, "dog", *map(str, range(12))))}
SIDE = 8


def folder(top, classes, n=3):
    """Class folders of grey images whose level tells the class."""
    for name in classes:
        (top / name).mkdir(parents=True)
        for number in range(n):
            Image.new("L", (SIDE, SIDE), LEVELS[name]).save(top / name / f"{number}.png")
    return f"folder:{top}"


def perfect(path, classes, stored=True):
    """A checkpoint that gives an image the class of the nearest level, whose outputs are in this order."""
    model = build_network("mlp,width=1", classes=len(classes), shape=(3, SIDE, SIDE))
    state, levels = model.state_dict(), torch.tensor([LEVELS[name] / 255 for name in classes])
    *_, weight, bias = state
    for key, value in state.items():
        value.fill_(1.0 if key.endswith("weight") else 0.0)
    state[next(iter(state))].fill_(1 / (3 * SIDE * SIDE))
    state[weight][:, 0], state[bias][:] = levels, -(levels**2) / 2
    about = {"arch": "mlp,width=1", "classes": len(classes), "shape": [3, SIDE, SIDE], "activation": "relu", "mean": None, "std": None}
    names = {} if stored is None else {"classes": list(classes) if stored else [str(k) for k in range(len(classes))]}
    checkpoint.save_checkpoint(path, model, {"model": about, "data": {"name": "folder:toy"}, "recipe": {}, **names})
    return path


def clean_accuracy(*words, out):
    """The clean accuracy that `robench attack` finds, and what it said on the way."""
    said = robench("attack", *words, "--attack", "fgsm", "--eps", "0", "--out", out).stderr
    return float(next(row["value"] for row in read(out / "rows.csv") if row["probe"] == "clean" and row["metric"] == "accuracy")), said


# --- orders


def test_the_numbers_in_names_of_one_form_give_an_order():
    assert classes_by_number(("1", "10", "2")) == ("1", "2", "10")
    assert classes_by_number(("class_1", "class_10", "class_2")) == ("class_1", "class_2", "class_10")
    assert classes_by_number(("10_dog", "2_cat")) == ("2_cat", "10_dog")
    for plain in (("DC-10", "DC-3", "MD-11"), ("01", "1"), ("a", "b1"), ("1_a", "1_b")):
        assert classes_by_number(plain) == plain


def test_numbered_folders_are_refused_where_the_two_orders_differ_and_taken_as_the_user_says():
    twelve = tuple(map(str, range(12)))
    with pytest.raises(InputError, match=r"class 2 is '10' in text order.* and '2' in number order: pass --class-order text or"):
        ordered_classes(twelve, None, "folder:toy")
    assert ordered_classes(twelve, "number", "x") == twelve
    assert ordered_classes(twelve, "text", "x") == ("0", "1", "10", "11", "2", "3", "4", "5", "6", "7", "8", "9")
    assert ordered_classes(twelve[:10], None, "x") == twelve[:10]
    with pytest.raises(InputError, match="unknown order of classes 'size'"):
        ordered_classes(twelve, "size", "x")


def test_the_order_changes_labels_and_neither_ids_nor_the_order_of_use(tmp_path):
    name = folder(tmp_path / "toy", map(str, range(12)))
    text, number = (data.load_images(name, class_order=order) for order in ("text", "number"))
    assert torch.equal(text.x, number.x)
    assert torch.equal(text.ids, number.ids)
    assert [text.classes[label] for label in text.y] == [number.classes[label] for label in number.y]
    assert number.classes == tuple(map(str, range(12)))
    with pytest.raises(InputError, match="a question for folders"):
        data.load_images("shapes", n=5, class_order="text")


@pytest.mark.parametrize(
    ("classes", "known", "how", "outputs", "note"),
    [
        (ANIMALS, None, None, [0, 1, 2], ""),
        (ANIMALS, ANIMALS, None, [0, 1, 2], ""),
        (ANIMALS, ("cat", "ant", "bee"), None, [1, 2, 0], "in another order"),
        (("cat", "bee"), ANIMALS, None, [2, 1], "2 of the 3 classes"),
        (("cat", "bee"), ANIMALS, "as-is", [0, 1], "taken as they are"),
        (("0", "1", "2"), ANIMALS, None, [0, 1, 2], ""),  # labels without names
        (ANIMALS, ("0", "1", "2"), None, [0, 1, 2], ""),  # a model that was trained on such
        (("0", "1", "2"), ("0 - zero", "1 - one", "2 - two"), None, [0, 1, 2], ""),
        (("3", "7"), tuple(map(str, range(10))), None, [3, 7], "2 of the 10"),
        (("0", "1", "2"), ("1", "0", "2"), "by-name", [1, 0, 2], "in another order"),
        (("0", "1", "2"), ("1", "0", "2"), "as-is", [0, 1, 2], "taken as they are"),
    ],
)
def test_labels_find_their_outputs(classes, known, how, outputs, note):
    found, said = outputs_for(classes, known, how, "m.pt", "toy")
    assert found == outputs
    assert note in said
    assert bool(note) == bool(said)


@pytest.mark.parametrize(
    ("classes", "known", "how", "sentence"),
    [
        (("ant", "elk"), ANIMALS, None, "m.pt knows no class 'elk'.*its classes are ant, bee, cat; pass --classes as-is"),
        (("ant", "ant"), ANIMALS, None, "a class name twice"),
        (("0", "1", "2"), ("1", "0", "2"), None, "labels without names.*--classes by-name .*--classes as-is"),
        (ANIMALS, None, "by-name", "stores no class names"),
        (ANIMALS, ANIMALS, "best", "unknown way"),
    ],
)
def test_labels_that_cannot_be_found_are_refused(classes, known, how, sentence):
    with pytest.raises(InputError, match=sentence):
        outputs_for(classes, known, how, "m.pt", "toy")


# --- by the command line


def test_labels_are_put_into_the_order_of_the_models_classes(tmp_path):
    toy = folder(tmp_path / "toy", ANIMALS)
    model = perfect(tmp_path / "m.pt", ("cat", "ant", "bee"))
    accuracy, said = clean_accuracy(model, "--data", toy, out=tmp_path / "out")
    assert accuracy == 1
    assert "Note: folder:toy has the classes of m.pt in another order: its labels were put into the model's order" in said
    assert {row["label"] for row in read(tmp_path / "out" / "samples.csv")} == {"0", "1", "2"}
    assert clean_accuracy(model, "--data", toy, "--classes", "as-is", out=tmp_path / "raw")[0] == 0


def test_a_part_of_the_classes_is_put_on_its_outputs_and_all_outputs_compete(tmp_path):
    model = perfect(tmp_path / "m.pt", (*ANIMALS, "dog"))
    accuracy, said = clean_accuracy(model, "--data", folder(tmp_path / "few", ("bee", "dog")), out=tmp_path / "out")
    assert accuracy == 1
    assert "folder:few has 2 of the 4 classes of m.pt" in said
    assert "all 4 outputs compete" in said
    assert {row["label"] for row in read(tmp_path / "out" / "samples.csv")} == {"1", "3"}


def test_a_class_that_the_model_does_not_know_is_refused(tmp_path):
    model, toy = perfect(tmp_path / "m.pt", (*ANIMALS, "0")), folder(tmp_path / "toy", ("ant", "dog"))
    for words in (["attack"], ["eval"], ["saliency"], ["corrupt"], ["attack", "--attack", "random-noise"]):
        assert "m.pt knows no class 'dog'" in refused(*words, model, "--data", toy, "--out", tmp_path / "out")


def test_numbered_folders_follow_the_names_of_the_checkpoint_else_the_users_word(tmp_path):
    twelve = tuple(map(str, range(12)))
    toy = folder(tmp_path / "toy", twelve)
    knowing = perfect(tmp_path / "knowing.pt", sorted(twelve))
    assert clean_accuracy(knowing, "--data", toy, out=tmp_path / "a")[0] == 1
    assert "stores the names of its classes" in refused("attack", knowing, "--data", toy, "--class-order", "text")

    before = perfect(tmp_path / "before.pt", sorted(twelve), stored=None)
    accuracy, said = clean_accuracy(before, "--data", toy, out=tmp_path / "b")
    assert accuracy == 1
    assert "count in text order" in said

    nameless = perfect(tmp_path / "nameless.pt", twelve, stored=False)
    for words in (["attack"], ["eval"], ["saliency"], ["corrupt"]):
        assert "pass --class-order text or --class-order number" in refused(*words, nameless, "--data", toy, "--out", tmp_path / "no")
    assert clean_accuracy(nameless, "--data", toy, "--class-order", "number", out=tmp_path / "c")[0] == 1
    assert clean_accuracy(nameless, "--data", toy, "--class-order", "text", out=tmp_path / "d")[0] == pytest.approx(2 / 12)


def test_an_exported_set_of_numbered_folders_follows_names_or_the_users_word(tmp_path):
    twelve = tuple(map(str, range(12)))
    toy, made = folder(tmp_path / "toy", twelve, n=1), tmp_path / "set"
    words = ("corrupt", "--data", toy, "--corruption", "brightness", "--export", made)
    assert "pass --class-order text or --class-order number" in refused(*words)
    assert not list(made.glob("*.npy"))
    robench(*words, "--class-order", "text")
    assert json.loads((made / "robench.json").read_text())["classes"] == sorted(twelve)

    def accuracy(name, *words):
        robench("corrupt", *words, "--from", made, "--data", toy, "--severity", 1, "--out", tmp_path / name)
        return next(float(row["value"]) for row in read(tmp_path / name / "rows.csv") if row["probe"] == "clean")

    nameless = perfect(tmp_path / "nameless.pt", twelve, stored=False)
    assert "pass --class-order text or --class-order number" in refused("corrupt", nameless, "--from", made)
    assert accuracy("a", nameless, "--class-order", "number") == 1
    assert accuracy("b", nameless, "--class-order", "text") == pytest.approx(2 / 12)
    assert (
        accuracy("c", perfect(tmp_path / "knowing.pt", twelve[::-1])) == accuracy("d", perfect(tmp_path / "other.pt", sorted(twelve))) == 1
    )


def test_a_set_whose_classes_no_folder_named_has_no_use_for_an_order(tmp_path):
    words = ("corrupt", "--data", "shapes", "--n", 4, "--corruption", "contrast", "--export", tmp_path / "set")
    said = " ".join(robench(*words).stderr.split())
    assert "the 4 images hold 4 of 10 classes: --n takes more" in said
    model = tmp_path / "m.pt"
    checkpoint.save_checkpoint(model, build_network("mlp,width=1", classes=10, shape=(3, 32, 32)), {
        "model": {"arch": "mlp,width=1", "classes": 10, "shape": [3, 32, 32], "activation": "relu", "mean": None, "std": None},
        "data": {"name": "shapes"}, "recipe": {},
    })  # fmt: skip
    assert "leave --class-order out" in refused("corrupt", model, "--from", tmp_path / "set", "--class-order", "text")


def test_models_that_count_the_classes_differently_are_not_measured_together(tmp_path):
    toy = folder(tmp_path / "toy", ANIMALS)
    one, other = perfect(tmp_path / "one.pt", ANIMALS), perfect(tmp_path / "other.pt", ("cat", "bee", "ant"))
    sentence = "'ant' is output 0 of one.pt and output 2 of other.pt: measure them one at a time"
    for words in (["saliency", one, other], ["corrupt", one, other], ["attack", one, other, "--attack", "random-noise"]):
        assert sentence in refused(*words, "--data", toy, "--out", tmp_path / "out")
    for words in (["corrupt", one, "--reference", other], ["attack", one, "--attack", f"transfer:{other}"]):
        assert "other.pt does not count the classes as the model does" in refused(*words, "--data", toy, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_corruptions_read_from_the_disk_get_the_models_labels_too(tmp_path):
    for severity in ("1", "3"):
        folder(tmp_path / "toy-c" / "fog" / severity, ANIMALS)
    model = perfect(tmp_path / "m.pt", ("cat", "ant", "bee"))
    said = robench("corrupt", model, "--from", tmp_path / "toy-c", "--out", tmp_path / "out").stderr
    assert "its labels were put into the model's order" in said
    rows = [row for row in read(tmp_path / "out" / "rows.csv") if row["metric"] == "accuracy"]
    assert [float(row["value"]) for row in rows] == [1, 1]
    made = robench("corrupt", model, "--data", folder(tmp_path / "toy", ANIMALS), "--corruption", "brightness", "--severity", "1",
                   "--out", tmp_path / "made").stderr  # fmt: skip
    assert "its labels were put into the model's order" in made
    clean = [row for row in read(tmp_path / "made" / "rows.csv") if row["probe"] == "clean" and row["metric"] == "accuracy"]
    assert float(clean[0]["value"]) == 1


def test_what_is_exported_keeps_the_datas_own_labels(tmp_path):
    model = perfect(tmp_path / "m.pt", ("cat", "ant", "bee"))
    robench("corrupt", model, "--data", folder(tmp_path / "toy", ANIMALS), "--corruption", "brightness", "--export", tmp_path / "set",
            "--out", tmp_path / "out")  # fmt: skip
    assert np.load(tmp_path / "set" / "labels.npy")[:3].tolist() == [0, 1, 2]
    assert json.loads((tmp_path / "set" / "robench.json").read_text())["classes"] == list(ANIMALS)


@pytest.mark.parametrize("words", [["attack", "--eps", "0"], ["eval", "--suite", "smoke"], ["attack", "--attack", "random-noise"],
                                   ["saliency"], ["corrupt", "--corruption", "brightness", "--severity", "1"]])  # fmt: skip
def test_every_command_says_that_a_clean_accuracy_is_that_of_a_guess(tmp_path, words):
    toy = folder(tmp_path / "toy", ANIMALS, n=12)
    model = perfect(tmp_path / "m.pt", ("cat", "ant", "bee"))
    said = robench(words[0], model, *words[1:], "--data", toy, "--classes", "as-is", "--out", tmp_path / "out").stderr
    assert "clean accuracy is 0.0%, chance is 1/3" in " ".join(said.split())
    assert "chance is" not in robench(words[0], model, *words[1:], "--data", toy, "--out", tmp_path / "right").stderr


# --- more outputs than classes


def test_weights_with_more_outputs_than_the_data_has_classes_are_judged_over_all_of_them(tmp_path):
    model = perfect(tmp_path / "m.pt", (*ANIMALS, "dog"))
    torch.save(checkpoint.read_checkpoint(model)[0], tmp_path / "bare.pth")
    x = np.full((4, SIDE, SIDE, 3), LEVELS["bee"], np.uint8)
    x[3] = LEVELS["dog"]  # an image that only an output beyond the labels explains
    np.savez(tmp_path / "toy.npz", x=x, y=np.array([1, 1, 0, 1]))
    for name, more in (("m.pt", []), ("bare.pth", ["--arch", "mlp,width=1"])):
        accuracy, said = clean_accuracy(tmp_path / name, *more, "--data", f"npz:{tmp_path / 'toy.npz'}", out=tmp_path / f"out-{name}")
        assert accuracy == 0.5
        assert "4 outputs" in said
    assert "label k is taken for output k" in said
    samples = read(tmp_path / "out-m.pt" / "samples.csv")
    assert [row["clean_pred"] for row in samples] == ["1", "1", "1", "3"]


def test_pictures_name_an_output_without_a_class_by_its_number():
    toy = data.load_images("shapes", n=3)
    assert toy.class_name(0) == toy.classes[0]
    assert toy.class_name(12) == "12"


# --- training


def test_a_checkpoint_stores_the_names_of_its_classes(tmp_path):
    toy = folder(tmp_path / "toy", map(str, range(12)), n=6)
    words = ["--arch", "mlp,width=1", "--epochs", "1", "--batch-size", "8", "--held-out", "12", "--suite", "fgsm", "--out"]
    robench("train", "--data", toy, "--objective", "standard", *words, tmp_path / "m.pt")
    assert checkpoint_meta(tmp_path / "m.pt")["classes"] == sorted(map(str, range(12)))
    toy = folder(tmp_path / "other", ("ant", "bee"), n=20)
    teacher = perfect(tmp_path / "teacher.pt", ("bee", "ant"))
    sentence = refused("train", "--data", toy, "--reg", "igd", "--teacher", teacher, *words, tmp_path / "n.pt")
    assert "teacher.pt counts the classes of folder:other in another order" in sentence
