"""ImageNet and its kin in the layouts in which they are handed round: the same images under the same classes, or one sentence."""

import gzip

import numpy as np
import pytest
import trees
from hypothesis import given
from hypothesis import strategies as st
from needed import needed

from robench.core.errors import InputError
from robench.data import load_images
from robench.data.imagenet import imagenet_classes, index_of_wnids, known_set, named_indices, outputs_are_imagenet
from robench.data.label_files import wnids_by_stem


def read_back(folder, split="test", **how):
    """The wnid of each image by its pixels, and the notes."""
    images = load_images(f"folder:{folder}", split, **how)
    pixels = images.x.permute(0, 2, 3, 1).numpy()
    return {x.tobytes(): images.classes[int(label)] for x, label in zip(pixels, images.y, strict=True)}, " | ".join(images.notes)


def as_written(images):
    return {np.ascontiguousarray(pixels).tobytes(): wnid for pixels, wnid in images}


@pytest.mark.parametrize("layout", trees.TREES)
def test_every_layout_is_read_back_with_its_classes(tmp_path, layout):
    images = trees.made_images(23)
    folder = trees.TREES[layout](tmp_path / "top", images)
    assert read_back(folder)[0] == as_written(images)


@pytest.mark.parametrize("layout", ["devkit", "devkit_beside_images", "caffe", "tensorflow", "kaggle"])
def test_flat_folders_count_images_and_classes_as_class_folders_do(tmp_path, layout):
    images = trees.made_images(23)
    folders = load_images(f"folder:{trees.wnid_folders(tmp_path / 'folders', images)}")
    flat = load_images(f"folder:{trees.TREES[layout](tmp_path / 'flat', images)}")
    assert flat.classes == folders.classes
    assert (flat.ids.tolist(), flat.y.tolist()) == (folders.ids.tolist(), folders.y.tolist())
    assert flat.x.equal(folders.x)
    assert flat.split == "test"


@pytest.mark.parametrize("layout", ["tensorflow", "kaggle", "imagenette", "tiny_imagenet"])
def test_the_training_images_beside_are_read_as_the_split_train(tmp_path, layout):
    images = trees.made_images(20)
    folder = trees.TREES[layout](tmp_path / "top", images)
    train = load_images(f"folder:{folder}", "train")
    assert train.split == "train"
    assert train.classes == load_images(f"folder:{folder}", "val").classes == tuple(sorted(trees.CLASSES.values()))
    assert len(train) == (20 if layout == "tiny_imagenet" else 10)


def test_kaggles_tree_is_read_from_each_of_its_folders(tmp_path):
    images = trees.made_images(12)
    trees.kaggle(tmp_path, images)
    for inner in ("ILSVRC", "ILSVRC/Data", "ILSVRC/Data/CLS-LOC", "ILSVRC/Data/CLS-LOC/val"):
        assert read_back(tmp_path / inner)[0] == as_written(images)
    trees.put_text(tmp_path / "ILSVRC/Data/CLS-LOC/val/LOC_val_solution.csv", ["ImageId,PredictionString"])


def test_the_numbers_of_the_development_kit_are_not_those_of_sorted_wnids(tmp_path):
    [image] = trees.made_images(1, wnids=("n01751748",))  # the true class of the first validation image
    folder = trees.devkit(tmp_path, [image])
    truth = folder / "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"
    assert truth.read_text() == "490\n"  # as the published file begins
    assert index_of_wnids()["n01751748"] == 65  # as Caffe's val.txt begins
    assert set(read_back(folder)[0].values()) == {"n01751748"}


def test_numbers_with_two_readings_are_refused_and_an_option_decides(tmp_path):
    [image] = trees.made_images(1)
    trees.put_flat(tmp_path / "val", [image])
    trees.put_text(tmp_path / "val.txt", [f"{trees.validation_name(0)}.JPEG 7"])
    with pytest.raises(
        InputError, match=r"numbers in val.txt have two readings \(it has no 0\): say with --layout imagenet,numbering=devkit"
    ):
        load_images(f"folder:{tmp_path}")
    classes = imagenet_classes()
    by_devkit = next(one.wnid for one in classes if one.devkit_number == 7)
    for numbering, wnid in (("devkit", by_devkit), ("index", classes[7].wnid), ("index-from-1", classes[6].wnid)):
        assert set(read_back(tmp_path, layout=f"imagenet,numbering={numbering}")[0].values()) == {wnid}
    with pytest.raises(InputError, match="unknown numbering 'caffe'"):
        load_images(f"folder:{tmp_path}", layout="imagenet,numbering=caffe")
    trees.put_text(tmp_path / "ILSVRC2012_validation_ground_truth.txt", ["0"])
    (tmp_path / "val.txt").unlink()
    with pytest.raises(InputError, match="counts from 0, which the development kit does not"):
        load_images(f"folder:{tmp_path}")


def test_label_files_that_contradict_each_other_are_refused_and_an_option_decides(tmp_path):
    images = trees.made_images(4)
    trees.tensorflow(tmp_path, images)
    trees.put_text(
        tmp_path / "LOC_val_solution.csv",
        ["ImageId,PredictionString", *(f"{trees.validation_name(k)},n01440764 1 1 2 2" for k in range(4))],
    )
    with pytest.raises(
        InputError, match=r"LOC_val_solution.csv says that ILSVRC2012_val_00000001 is n01440764, and imagenet_2012.* says n02690373"
    ):
        load_images(f"folder:{tmp_path}")
    named = tmp_path / "imagenet_2012_validation_synset_labels.txt"
    assert read_back(tmp_path, layout=f"imagenet,labels={named}")[0] == as_written(images)
    trees.put_text(
        tmp_path / "LOC_val_solution.csv", ["ImageId,PredictionString", *(f"{trees.validation_name(k)},{images[k][1]} 1" for k in range(4))]
    )
    assert "LOC_val_solution.csv, with which imagenet_2012_validation_synset_labels.txt agrees" in read_back(tmp_path)[1]


def test_a_folder_of_validation_images_without_labels_says_what_is_missing(tmp_path):
    trees.put_flat(tmp_path / "val", trees.made_images(3))
    with pytest.raises(InputError, match=r"holds 3 validation images of ImageNet without class folders, and no file beside them says"):
        load_images(f"folder:{tmp_path}")
    with pytest.raises(InputError, match="there is no label file"):
        load_images(f"folder:{tmp_path}", layout=f"imagenet,labels={tmp_path / 'none.txt'}")
    trees.put_text(tmp_path / "validation_labels.txt", ["n01440764"])
    with pytest.raises(InputError, match=r"validation_labels.txt says no class of ILSVRC2012_val_00000002, nor of 1 other"):
        load_images(f"folder:{tmp_path}")
    with pytest.raises(InputError, match="no folder train with class folders"):
        load_images(f"folder:{tmp_path}", "train")


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["n01440764", "tench"], "entry 2 has 'tench' where the class should be"),
        (["1001", "0"], "entry 1 has '1001' where the class should be"),
        (["a.JPEG 0", "a.JPEG 1"], "names a twice, as n01440764 and as n01443537"),
        (["a.JPEG 0", "7"], "entry 2 has another form than the first: '7'"),
        ([""], "is empty"),
    ],
)
def test_damaged_label_files_are_refused_with_the_line(tmp_path, lines, sentence):
    trees.put_text(tmp_path / "labels.txt", lines)
    with pytest.raises(InputError, match=sentence):
        wnids_by_stem(tmp_path / "labels.txt")


def test_images_beside_class_folders_have_two_readings(tmp_path):
    images = trees.made_images(6)
    trees.devkit(tmp_path, images)
    trees.put_class_folders(tmp_path / "val", images[:2])
    with pytest.raises(InputError, match="val holds validation images as well as class folders"):
        load_images(f"folder:{tmp_path}")
    assert read_back(tmp_path, layout="imagenet")[0] == as_written(images)
    assert read_back(tmp_path, layout="splits")[0] == as_written(images[:2])


def test_folders_of_imagenet_v2_are_indices_and_not_places_in_text_order(tmp_path):
    wnids = [imagenet_classes()[index].wnid for index in (2, 10, 100, 999)]
    images = trees.made_images(8, wnids=wnids)
    trees.imagenet_v2(tmp_path, images)
    found = load_images(f"folder:{tmp_path}")
    assert found.classes == tuple(wnids)
    assert read_back(tmp_path)[0] == as_written(images)
    by_number = load_images(f"folder:{tmp_path / trees.V2_VARIANTS[0]}", class_order="number")
    assert by_number.classes == ("2", "10", "100", "999"), "who says --class-order gets what was read before"
    assert by_number.ids.tolist() == found.ids.tolist()
    trees.put_image(tmp_path / trees.V2_VARIANTS[2] / "5/a.jpeg", images[0][0])
    with pytest.raises(InputError, match="has 2 variants of ImageNet-V2: name one, such as folder:PATH/imagenetv2-matched"):
        load_images(f"folder:{tmp_path}")
    assert read_back(tmp_path / trees.V2_VARIANTS[0])[0] == as_written(images)
    plain = tmp_path / "plain"
    trees.imagenet_v2(tmp_path / "more", images)
    (tmp_path / "more" / trees.V2_VARIANTS[0]).rename(plain)
    with pytest.raises(InputError, match="pass --class-order text or --class-order number"):
        load_images(f"folder:{plain}")
    assert read_back(plain, layout="imagenet-v2")[0] == as_written(images)
    trees.put_image(plain / "tench/a.jpeg", images[0][0])
    with pytest.raises(InputError, match="its folders would be numbers from 0 to 999"):
        load_images(f"folder:{plain}", layout="imagenet-v2")


def test_tiny_imagenet_counts_as_image_folders_do_or_as_its_list(tmp_path):
    images = trees.made_images(30)
    folder = trees.tiny_imagenet(tmp_path, images)
    found, notes = read_back(folder)
    assert found == as_written(images)
    assert load_images(f"folder:{folder}").split == "test"
    assert "its classes count in the order 'text'; --layout tiny-imagenet,order=wnids" in notes
    assert "the images of test have no labels: val stands in for them" in notes
    listed = load_images(f"folder:{folder}", layout="tiny-imagenet,order=wnids")
    assert listed.classes == tuple((tmp_path / "wnids.txt").read_text().split()) != tuple(sorted(listed.classes))
    assert read_back(folder, layout="tiny-imagenet,order=wnids")[0] == as_written(images)
    (tmp_path / "val/val_annotations.txt").write_text("val_0.JPEG\tn02690373\t0\t0\t1\t1\n")
    with pytest.raises(InputError, match=r"val_annotations.txt says no class of val_1.JPEG"):
        load_images(f"folder:{folder}")


def test_tiny_imagenet_with_its_validation_images_in_class_folders(tmp_path):
    images = trees.made_images(20)
    folder = trees.tiny_imagenet(tmp_path, images)
    for k, (_, wnid) in enumerate(images):
        (folder / "val" / wnid).mkdir(exist_ok=True)
        (folder / f"val/images/val_{k}.JPEG").rename(folder / "val" / wnid / f"val_{k}.JPEG")
    assert read_back(folder)[0] == as_written(images)


@pytest.mark.parametrize(
    ("word", "title"), [("a", "ImageNet-A"), ("r", "ImageNet-R"), ("100-cmc", "Tian"), ("100-kaggle", "Kaggle"), ("woof", "Imagewoof")]
)
def test_sets_with_some_of_the_classes_are_known_by_exactly_these(tmp_path, word, title):
    wnids = [one.wnid for one in imagenet_classes() if word in one.sets]
    folder = trees.sketch(tmp_path, trees.made_images(len(wnids), wnids=wnids, side=2))
    assert f"its classes are those of {'ImageNet-100 in the list of ' if '100' in word else ''}" in read_back(folder)[1]
    assert title in read_back(folder)[1]
    assert known_set(wnids[1:]) == ("", "")
    assert known_set(wnids)[1] == ("data" if word in "ar" else "")


def test_a_hundred_classes_of_no_known_list_are_said_to_be_so():
    wnids = [one.wnid for one in imagenet_classes()]
    assert known_set(wnids[:100])[0] == "100 of ImageNet's classes, in no list of ImageNet-100 that is known here"
    assert known_set([*wnids[:99], "n99999999"]) == ("", "")


def test_the_list_of_classes_is_that_of_timm_and_torchvision():
    timm_data = needed("timm.data")
    from importlib import resources

    from torchvision.models._meta import _IMAGENET_CATEGORIES

    classes, info = imagenet_classes(), resources.files(timm_data) / "_info"
    assert [one.wnid for one in classes] == (info / "imagenet_synsets.txt").read_text().split()
    lemmas = dict(line.split("\t") for line in (info / "imagenet_synset_to_lemma.txt").read_text().splitlines())
    assert [", ".join(one.names) for one in classes] == [lemmas[one.wnid] for one in classes]
    for word in ("a", "r"):
        assert {one.wnid for one in classes if word in one.sets} == set((info / f"imagenet_{word}_synsets.txt").read_text().split())
    double = {"crane": (134, 517), "maillot": (638, 639)}
    assert [named_indices(name) for name in _IMAGENET_CATEGORIES] == [double.get(name, (k,)) for k, name in enumerate(_IMAGENET_CATEGORIES)]
    assert outputs_are_imagenet(_IMAGENET_CATEGORIES)
    assert outputs_are_imagenet([lemmas[one.wnid] for one in classes])
    assert not outputs_are_imagenet(sorted(_IMAGENET_CATEGORIES))
    assert sorted(one.devkit_number for one in classes) == list(range(1, 1001))


def test_robustbenchs_images_lie_in_folders_of_known_wnids(data_dir):
    with gzip.open(data_dir / "robustbench_imagenet_5000.txt.gz", "rt") as lines:
        assert {line.partition("/")[0] for line in lines} <= index_of_wnids().keys()


@given(st.permutations(list(trees.CLASSES.values())), st.integers(0, 10**6))
def test_labels_do_not_depend_on_the_order_in_which_folders_were_made(tmp_path_factory, wnids, seed):
    images = trees.made_images(10, seed=seed, side=3, wnids=wnids)
    folder = trees.wnid_folders(tmp_path_factory.mktemp("tree"), images)
    assert read_back(folder)[0] == as_written(images)
