"""Trees of C-bar and ImageNet-3DCC: recognised by their corruptions, severities by the numbers of the generator, never mixed."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from robench.core.corruption_names import C_BAR_NUMBERS, EVERY_NAME, NINETEEN, ON_DISK, SEVERITIES, THREE_D
from robench.core.errors import InputError
from robench.data.corrupted_sets import read_corrupted_set
from robench.evaluation.corruption_sources import corruption_recipes


def tree(top: Path, corruptions, folders=SEVERITIES, kinds=("n01440764", "n01443537"), count=2, side=8):
    """A tree of images whose red tells the place in the sorted list and whose green tells the place of the severity's folder."""
    for name in corruptions:
        for place, folder in enumerate(folders(name) if callable(folders) else folders, 1):
            for number, kind in enumerate(kinds):
                (top / name / str(folder) / kind).mkdir(parents=True)
                for image in range(count):
                    colour = (number * count + image, place, 0)
                    Image.new("RGB", (side, side), colour).save(top / name / str(folder) / kind / f"ILSVRC2012_val_{image:08d}.png")
    return top


def test_the_names_are_those_of_the_papers_and_no_two_sets_but_the_two_of_c_bar_share_one():
    assert {name: len(names) for name, names in ON_DISK.items()} == {"cifar10-c-bar": 10, "imagenet-c-bar": 10, "imagenet-3dcc": 12}
    assert all(len(numbers) == 5 for table in C_BAR_NUMBERS.values() for numbers in table.values())
    assert not {*NINETEEN} & {name for names in ON_DISK.values() for name in names}
    assert not {*THREE_D} & {*ON_DISK["cifar10-c-bar"], *ON_DISK["imagenet-c-bar"]}
    assert len(EVERY_NAME) == 19 + 12 + len({*ON_DISK["cifar10-c-bar"], *ON_DISK["imagenet-c-bar"]})


@pytest.mark.parametrize("name", ["imagenet-c-bar", "imagenet-3dcc"])
def test_a_tree_is_known_by_its_corruptions(tmp_path, name, monkeypatch):
    monkeypatch.setattr("robench.data.corrupted_trees.TREES", {(2, 4, 8): "imagenet-c"})
    top = tree(tmp_path / {"imagenet-c-bar": "ImageNet-C-bar", "imagenet-3dcc": "ImageNet-3DCC"}[name], ON_DISK[name])
    data = read_corrupted_set(top)
    assert (data.name, data.kind, data.layout) == (f"folder:{top.name}", "other", name)
    assert (data.corruptions, data.severities) == (ON_DISK[name], SEVERITIES)
    assert len(data.notes) == 1
    assert data.load(ON_DISK[name][3], 4, torch.arange(4)).x[:, :2, 0, 0].tolist() == [[0, 4], [2, 4], [1, 4], [3, 4]]


def test_severities_of_c_bar_are_known_by_the_numbers_that_its_generator_writes(tmp_path):
    table = C_BAR_NUMBERS["imagenet-c-bar"]
    top = tree(tmp_path / "set", ("sparkles", "caustic_refraction", "perlin_noise"), lambda name: [f"{n:.2f}" for n in table[name]])
    assert (top / "caustic_refraction" / "2.35").is_dir()
    data = read_corrupted_set(top)
    assert data.corruptions == ("caustic_refraction", "perlin_noise", "sparkles")
    for corruption in data.corruptions:
        assert [int(data.load(corruption, severity, torch.arange(1)).x[0, 1, 0, 0]) for severity in SEVERITIES] == [1, 2, 3, 4, 5]
    assert read_corrupted_set(top, ["perlin_noise"], [2]).severities == (2,)
    (top / "perlin_noise" / "5.80").rename(top / "perlin_noise" / "5.81")
    with pytest.raises(InputError, match=r"perlin_noise/3 is not there"):
        read_corrupted_set(top)


def test_a_folder_of_several_sets_gives_the_nineteen_unless_another_is_asked_for_and_never_both(tmp_path):
    top = tree(tmp_path / "all", ("fog", "flash", "fog_3d", "sparkles"))
    data = read_corrupted_set(top)
    assert data.corruptions == ("fog",)
    assert data.notes == ("left out of all, for they are none of the 19 corruptions: sparkles, flash, fog_3d",)
    assert read_corrupted_set(top, ["fog_3d", "flash"]).corruptions == ("fog_3d", "flash")
    with pytest.raises(InputError, match="flash is of another set of corruptions than fog: measure each set in a call of its own"):
        read_corrupted_set(top, ["fog", "flash"])


def test_arrays_of_c_bar_are_read_as_those_of_cifar_and_bear_its_layout(tmp_path):
    for name in ("lines", "ripple"):
        np.lib.format.open_memmap(tmp_path / f"{name}.npy", "w+", np.uint8, (50_000, 32, 32, 3)).flush()
    np.save(tmp_path / "labels.npy", np.tile(np.arange(10_000) % 10, 5))
    data = read_corrupted_set(tmp_path)
    assert (data.kind, data.layout, data.corruptions) == ("other", "cifar10-c-bar", ("ripple", "lines"))
    assert "has the layout of CIFAR-10-C-bar" in data.notes[0]


def test_what_robench_does_not_make_needs_a_folder():
    for name, where in (("fog_3d", "imagenet-3dcc"), ("sparkles", "cifar10-c-bar or imagenet-c-bar"), ("imagenet-3dcc", "imagenet-3dcc")):
        with pytest.raises(InputError, match=f"^{name} comes from the files of {where} alone.*--from"):
            corruption_recipes([name])
    assert [recipe.name for recipe in corruption_recipes(["imagenet-3dcc"], on_disk=True)] == [*THREE_D]
    assert [recipe.name for recipe in corruption_recipes(["fog", "sparkles"], on_disk=True)] == ["fog", "sparkles"]
    with pytest.raises(InputError, match="did you mean 'sparkles'"):
        corruption_recipes(["sparkle"], on_disk=True)
    with pytest.raises(InputError, match="has no option scale"):
        corruption_recipes(["sparkles,scale=cifar"], on_disk=True)
