"""What `--save` writes: adversarial images, those of probes and corruptions, maps; and what it must not mix up."""

import os

import numpy as np
import pytest
from commandline import read, refused, robench

from robench import attack, load_model
from robench.core.errors import InputError
from robench.data import load_images

CHECKPOINT = "checkpoints/shapes-cnn-pgd-at.pt"


def test_a_mixed_run_saves_what_each_stage_made(tmp_path):
    words = ["--suite", "random-noise,t=0.1,fog,severity=3,pgd-10 on fog,severity=3,saliency", "--eps", "4/255", "--n", 12, "--save"]
    robench("eval", CHECKPOINT, *words, "--out", tmp_path / "mixed")
    robench("corrupt", CHECKPOINT, "--corruption", "fog", "--severity", 3, "--n", 12, "--save", "--out", tmp_path / "corrupt")
    fog, clean = np.load(tmp_path / "corrupt" / "x-fog-3.npy"), load_images("shapes", "test", n=12).pixels(slice(None)).numpy()
    (same,) = (tmp_path / "mixed").glob("x-fog-3*.npy")
    assert np.array_equal(np.load(same), fog)
    x_adv, samples = np.load(tmp_path / "mixed" / "x_adv.npy"), read(tmp_path / "mixed" / "samples.csv")
    moved = np.abs(x_adv - fog).reshape(12, -1).max(1)
    assert [bool(far > 0) for far in moved] == [line["broken_by"] not in ("", "clean") for line in samples]
    assert moved.max() <= 4 / 255 + 1e-6
    assert {line["images"] for line in samples} == {"fog-3"}
    assert all(line["clean_margin"] for line in samples)
    (noisy,) = (tmp_path / "mixed").glob("x-random-noise*.npy")
    tried = {int(line["sample"]) for line in read(tmp_path / "mixed" / "samples-probes.csv") if line["probe"] == "random-noise"}
    share = (np.load(noisy) != clean).reshape(12, -1).mean(1)
    assert all(0.05 < share[place] < 0.15 for place in tried)
    assert (tmp_path / "mixed" / "maps-shapes-cnn-pgd-at-pt-saliency.npy").exists()


def test_images_of_another_attack_do_not_get_into_x_adv(tmp_path):
    robench("eval", CHECKPOINT, "--suite", "pgd-10", "--eps", "24/255", "--n", 12, "--save", "--out", tmp_path / "one")
    robench("eval", CHECKPOINT, "--suite", "pgd-10,saliency on fgsm", "--eps", "24/255", "--n", 12, "--save", "--out", tmp_path / "two")
    assert np.array_equal(np.load(tmp_path / "one" / "x_adv.npy"), np.load(tmp_path / "two" / "x_adv.npy"))


def test_models_whose_names_are_one_in_file_names_are_refused(tmp_path):
    import shutil

    for name in ("a b.pt", "a-b.pt"):
        shutil.copy(CHECKPOINT, tmp_path / name)
    said = refused("eval", tmp_path / "a b.pt", tmp_path / "a-b.pt", "--suite", "fgsm", "--n", 8, "--out", tmp_path / "out")
    assert "have one name in the names of files" in said


def test_an_own_attack_that_lies_has_no_success(tmp_path):
    (tmp_path / "own.py").write_text(
        "import torch\nfrom robench.core.types import AttackResult\n\n\ndef lie(model, x, y, threat, draws):\n"
        "    n = len(x)\n    z = torch.zeros(n).long()\n"
        "    return AttackResult(x, torch.ones(n).bool(), z, z, z, torch.zeros(n).bool())\n"
    )
    robench("attack", CHECKPOINT, "--attack", f"{tmp_path}/own.py:lie", "--n", 12, "--out", tmp_path / "out")
    rows = {row["metric"]: row["value"] for row in read(tmp_path / "out" / "rows.csv") if row["probe"] == "own.py:lie"}
    assert float(rows["success_rate"]) == 0
    assert "flag/warning" in rows


def test_a_probe_whose_levels_depend_on_the_batch_is_refused(tmp_path):
    (tmp_path / "own.py").write_text(
        "import torch\nfrom robench.core.types import Level\n\n\ndef vary(model, x, y, draws):\n    z = torch.zeros(len(x)).long()\n"
        "    for k in range(len(x)):\n        yield Level(f'v={k}', 0, x, z.bool(), z.float(), z, z)\n"
    )
    said = refused("attack", CHECKPOINT, "--attack", f"{tmp_path}/own.py:vary", "--n", 12, "--batch-size", 5, "--out", tmp_path / "out")
    assert "yields other levels for one batch than for another" in said


def test_an_array_takes_the_place_of_no_pipe(tmp_path):
    os.mkfifo(tmp_path / "x.npy")
    images, model = load_images("shapes", "test", n=2), load_model(CHECKPOINT)
    with pytest.raises(InputError, match="is a device, a pipe or a socket"):
        attack(model, images, recipe="fgsm", save=tmp_path / "x.npy")
    assert (tmp_path / "x.npy").is_fifo()
