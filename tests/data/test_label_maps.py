"""Labels of ImageNet's classes by wnid, number and name, and the user's own label maps."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robench.core.errors import InputError
from robench.data.class_names import class_order_for, label_mapping_for, outputs_for
from robench.data.imagenet import imagenet_classes
from robench.data.label_maps import imagenet_class_names, is_imagenet_model, outputs_by_map, read_label_map

WNIDS = [one.wnid for one in imagenet_classes()]
HUB_NAMES = [", ".join(one.names) for one in imagenet_classes()]  # id2label of transformers' classifiers
OF_IMAGENET = {
    "torchvision": list(imagenet_class_names()),
    "hub": HUB_NAMES,
    "wnids": WNIDS,
    "LABEL_k": [f"LABEL_{k}" for k in range(1000)],
    "none": None,
}


def outputs(classes, names, how=None, count=1000, **more):
    return outputs_for(classes, names, how, "m", "toy", count=count, **more)


@pytest.mark.parametrize("model", OF_IMAGENET)
@given(chosen=st.lists(st.integers(0, 999), min_size=1, max_size=20, unique=True))
def test_wnids_find_their_outputs_in_any_order_whatever_the_model_calls_them(model, chosen):
    assert outputs([WNIDS[k] for k in chosen], OF_IMAGENET[model])[0] == chosen


@pytest.mark.parametrize("model", OF_IMAGENET)
def test_the_reading_of_outputs_without_names_is_said(model):
    note = outputs(["n02123045", "n01440764"], OF_IMAGENET[model])[1]
    assert ("read as ImageNet's classes in the order of their wnids" in note) == (model in ("none", "LABEL_k"))
    assert outputs(WNIDS, OF_IMAGENET[model]) == (list(range(1000)), ""), "nothing is said where nothing moves"


@pytest.mark.parametrize("model", OF_IMAGENET)
@pytest.mark.parametrize("data", ["torchvision", "hub", "wnids"])
def test_all_thousand_in_their_order_are_the_outputs_also_where_two_have_one_name(model, data):
    assert outputs(OF_IMAGENET[data], OF_IMAGENET[model]) == (list(range(1000)), "")


def test_other_models_keep_the_labels_of_wnid_folders_as_they_are():
    assert outputs(WNIDS[:3], None, count=3) == ([0, 1, 2], "")
    assert outputs(WNIDS[5:8], None, count=None) == ([0, 1, 2], "")
    assert outputs(["cat", "unicorn"], None)[0] == [0, 1], "1,000 outputs without names may be other classes"
    assert "label k is taken for output k, and all 1000 outputs compete" in outputs(["cat", "unicorn"], None)[1]
    assert not is_imagenet_model(sorted(OF_IMAGENET["torchvision"]), 1000)
    assert not is_imagenet_model(None, 100)


@pytest.mark.parametrize(
    ("name", "output"),
    [("tench", 0), ("Great_White_Shark", 2), ("tench, Tinca tinca", 0), ("crane bird", 134), ("Cardigan", 264), ("cardigan", 474),
     ("sunglass", 836), ("sunglasses", 837), ("tiger_cat", 282), ("harp", 594)],
)  # fmt: skip
@pytest.mark.parametrize("model", ["torchvision", "hub", "none"])
def test_names_find_their_outputs(name, output, model):
    assert outputs([name, "goldfish"], OF_IMAGENET[model])[0] == [output, 1]


@pytest.mark.parametrize(
    ("name", "both"), [("crane", ("n02012849", "n03126707")), ("maillot", ("n03710637", "n03710721")), ("panda", ("n02509815",))]
)
@pytest.mark.parametrize("model", ["torchvision", "hub", "none"])
def test_a_name_of_two_classes_is_refused_and_a_wnid_or_a_map_decides(name, both, model):
    with pytest.raises(
        InputError, match=f"'{name}' in toy is the name of {both[0]} .*call the class by its wnid, or say which is meant with"
    ):
        outputs([name, "tench"], OF_IMAGENET[model])
    assert outputs([both[0]], OF_IMAGENET[model])[0] == [WNIDS.index(both[0])]
    assert outputs([name], OF_IMAGENET[model], label_map={name: both[-1]})[0] == [WNIDS.index(both[-1])]


def test_a_double_name_is_told_where_the_other_class_has_a_name_of_its_own():
    assert outputs(["crane", "crane bird", "maillot tank suit", "maillot"], OF_IMAGENET["torchvision"])[0] == [517, 134, 639, 638]
    own = [*OF_IMAGENET["torchvision"][:784], "needle for sewing", *OF_IMAGENET["torchvision"][785:]]
    assert outputs(["needle for sewing", "tench"], own)[0] == [784, 0]


@pytest.mark.parametrize("model", ["torchvision", "none"])
def test_a_class_folder_that_no_output_has_is_named(model):
    with pytest.raises(InputError, match=r"no output of m stands for the class 'n99999999' of toy: it is none of ImageNet's 1,000"):
        outputs(["n01440764", "n99999999"], OF_IMAGENET[model])
    with pytest.raises(InputError, match=r"no output of m stands for the class 'unicorn'"):
        outputs(["tench", "unicorn"], OF_IMAGENET["torchvision"])
    with pytest.raises(InputError, match="'tench' and 'n01440764' are one class of ImageNet"):
        outputs(["tench", "n01440764"], OF_IMAGENET[model])


def test_folders_of_numbers_are_outputs_where_that_is_the_only_reading():
    names = OF_IMAGENET["torchvision"]
    assert outputs([str(k) for k in range(1000)], names) == (list(range(1000)), "")
    with pytest.raises(InputError, match="pass --classes by-name if 7 is output 7 of m, or --classes as-is if it is output 0"):
        outputs(["7", "20"], names)
    assert outputs(["7", "20"], names, "by-name")[0] == [7, 20]
    assert outputs(["7", "20"], names, "as-is")[0] == [0, 1]
    with pytest.raises(
        InputError, match="toy has the class 1000, and the outputs of m are counted from 0 to 999: say what the numbers mean"
    ):
        outputs(["1", "1000"], names)


def test_the_folders_of_a_model_by_path_get_names_and_notes():
    mapping = label_mapping_for(
        ["n01443537", "n01440764"], "folder:x", ["tv/resnet50"], [{}], None, None, names=[OF_IMAGENET["torchvision"]], counts=[1000]
    )
    assert mapping.outputs == [1, 0]
    assert mapping.classes == tuple(OF_IMAGENET["torchvision"])
    nameless = label_mapping_for(["n01443537"], "folder:x", ["rb/Some"], [{}], None, None, counts=[1000])
    assert (nameless.outputs, nameless.classes[1], nameless.classes[0], len(nameless.classes)) == ([1], "n01443537", "tench", 1000)
    as_before = label_mapping_for(["a", "b"], "folder:x", ["m.pth"], [{}], None, None)
    assert (as_before.outputs, as_before.classes, as_before.notes) == ([0, 1], ("a", "b"), [])
    with pytest.raises(InputError, match="measure them one at a time"):
        label_mapping_for(["n01443537"], "x", ["a", "b"], [{}, {}], None, None, counts=[1000, 10])
    numbered = label_mapping_for(["2", "10"], "x", ["tv/resnet50"], [{}], None, "number", names=[OF_IMAGENET["torchvision"]], counts=[1000])
    assert numbered.outputs == [0, 1], "who gives an order has said which label is which"


# --- label maps


@pytest.mark.parametrize("ending", ["json", "csv"])
def test_label_maps_name_outputs_by_number_wnid_and_name(tmp_path, ending):
    file = tmp_path / f"map.{ending}"
    pairs = {"Katze": 281, "Möwe": "n02012849", "a, b": "golden retriever"}
    if ending == "json":
        file.write_text(json.dumps(pairs), "utf-8")
    else:
        file.write_text('class,output\nKatze,281\nMöwe,n02012849\n"a, b",golden retriever\n', "utf-8-sig")
    label_map = read_label_map(file)
    for names in OF_IMAGENET.values():
        assert outputs(["Möwe", "a, b", "Katze"], names, label_map=label_map)[0] == [134, 207, 281]
    with pytest.raises(InputError, match="gives 'Möwe' the class 'n02012849', and no output of m has that name"):
        outputs(["Möwe"], ["x", "y"], count=2, label_map=label_map)


@pytest.mark.parametrize(
    ("label_map", "sentence"),
    [
        ({"cat": "1", "dog": "1"}, "not one to one: 'cat' and 'dog' both have output 1 of m"),
        ({"cat": "0", "dog": "3"}, "gives 'dog' output 3, and m has outputs 0 to 2"),
        ({"cat": "0"}, "has no class 'dog', which toy has"),
        ({"cat": "0", "dog": "hund"}, "gives 'dog' the class 'hund', and no output of m has that name"),
        ({"cat": "0", "dog": "two"}, "gives 'dog' the class 'two', and two outputs of m have that name"),
    ],
)
def test_label_maps_that_are_not_one_to_one_or_name_no_output_are_refused(label_map, sentence):
    with pytest.raises(InputError, match=sentence):
        outputs_by_map(["cat", "dog"], ["one", "two", "two"], 3, label_map, "m", "toy")


def test_a_label_map_may_have_more_classes_than_the_data():
    found, note = outputs_by_map(["cat"], None, 10, {"cat": "3", "dog": "3"}, "m", "toy")
    assert found == [3]
    assert note.endswith("; 1 of its classes are not in toy")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.json", '{"cat": 1, "cat": 2}', "names the class 'cat' twice"),
        ("a.json", "[1, 2]", "must be one object"),
        ("a.json", '{"cat": 1.5}', "gives 'cat' no output"),
        ("a.json", '{"cat": true}', "gives 'cat' no output"),
        ("a.json", "{" * 9, "is no json file"),
        ("a.json", '[[["cat", 1]]]', "must be one object"),
        ("a.json", "{}", "must be one object|is empty"),
        ("a.csv", "cat,1\ndog\n", "entry 2 has 1 columns, and two are expected"),
        ("a.csv", "cat,1\ncat,2\n", "names the class 'cat' twice"),
        ("a.csv", "class,output\n", "is empty"),
        ("a.csv", b"\xff\xfe\x00", "is no text in UTF-8"),
    ],
)
def test_damaged_label_maps_are_refused(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=sentence):
        read_label_map(tmp_path / name)
    with pytest.raises(InputError, match="there is no label map"):
        read_label_map(tmp_path / "none.json")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_label_map(tmp_path)


def test_a_label_map_makes_order_and_way_idle():
    assert class_order_for("folder:x", ["m"], [{}], None, None, {"1": "2"}) == "text"
    assert class_order_for("npz:x", ["m"], [{}], None, None, {"1": "2"}) is None
    with pytest.raises(InputError, match="--label-map says which label is which output: leave --classes out"):
        class_order_for("folder:x", ["m"], [{}], None, "as-is", {"1": "2"})
    with pytest.raises(InputError, match="leave --class-order out"):
        class_order_for("folder:x", ["m"], [{}], "text", None, {"1": "2"})


def test_one_unknown_name_among_imagenets_own_is_refused_and_not_a_reason_to_number_all():
    with pytest.raises(InputError, match=r"stands for the class 'zebbra' of .*--label-map FILE, or pass --classes as-is"):
        outputs(["goldfish", "tench", "zebbra"], None)
    assert outputs(["goldfish", "tench", "zebra"], None)[0] == [1, 0, 340]
    assert outputs(["blips", "blobs"], None)[0] == [0, 1]
