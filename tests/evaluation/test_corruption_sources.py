"""`robench corrupt` and its loop: accuracies by hand, export and reading back, resume, references, and what is refused."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from changes import changed
from commandline import INTERRUPTIBLE, read, refused, robench
from PIL import Image
from places import CHECKPOINT
from torch import nn

from robench import corrupt
from robench.core.corruption_names import FIFTEEN, NINETEEN
from robench.core.draws import Draws
from robench.core.errors import InputError
from robench.corruptions import CORRUPTIONS
from robench.data import load_images
from robench.data.corrupted_sets import read_corrupted_set as read_set
from robench.data.export import prepare_export
from robench.evaluation.corruption_sources import corruption_recipes, source_from_images
from robench.runs.stages.corruption import corrupted_image_at

FEW = ["--corruption", "contrast", "--corruption", "gaussian_noise"]


class Bright(nn.Module):
    """Class 1 where the mean of an image is above a half."""

    def forward(self, x):
        score = x.flatten(1).mean(1) - 0.5
        return torch.stack((-score, score), 1)


def network(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, classes))


def accuracies(found):
    """The accuracy of each cell, ("clean", "") for the images as they are."""
    rows = [row for row in found.rows if row.metric == "accuracy"]
    return {(row.probe, dict(word.partition("=")[::2] for word in row.setting.split()).get("severity", "")): row.value for row in rows}


def test_the_accuracy_of_a_cell_is_that_of_the_model_on_the_corrupted_images():
    images = load_images("shapes", "test", n=30)
    images = replace(images, y=(images.pixels(slice(None)).flatten(1).mean(1) > 0.5).long())
    source = source_from_images(images, ["brightness", "gaussian_noise"], [1, 5], scale="auto", photos="", seed=4, device="cpu")
    found = corrupt(Bright(), source, seed=4, batch_size=7)
    by_hand = CORRUPTIONS["brightness"](images.pixels(slice(None)), 5, Draws(4, images.ids, "corrupt"))
    right = (Bright()(by_hand).argmax(1) == images.y).double().mean()
    assert accuracies(found)["brightness", "5"] == pytest.approx(float(right))
    assert accuracies(found)["clean", ""] == 1
    assert 0 < float(right) < 1
    table = {(p, s): v for p, s, v in zip(*(found.samples[name] for name in ("probe", "sample", "pred_5")), strict=True)}
    assert [table["brightness", i] for i in range(30)] == Bright()(by_hand).argmax(1).tolist()
    stage = next(stage for stage in found.run.stages if stage.name == "brightness-5")
    assert torch.equal(corrupted_image_at(stage, 0, found.run.pool), by_hand[0])


@pytest.mark.parametrize("name", NINETEEN)
def test_a_corruption_has_the_same_pixels_in_every_command(name, tmp_path):
    images = load_images("shapes", "test", n=5, shuffle=True, seed=3)
    whole = {"model": network(10), "x": images.x, "y": images.y, "ids": images.ids, "seed": 7, "batch_size": 2}
    for scale in ("auto", "imagenet"):
        source = source_from_images(images, [name], [4], scale=scale, photos="", seed=7, device="cpu")
        audited = changed(f"{name},severity=4,scale={scale}", **whole)
        assert torch.equal(audited.x(torch.arange(5)), source.pixels(name, 4, torch.arange(5)))
        assert audited.name == f"{name}-4" + ("" if scale == "auto" else "-imagenet")
    source = source_from_images(images, [name], [1, 2, 3, 4, 5], scale="auto", photos="", seed=7, device="cpu")
    corrupt([], source, batch_size=3, target=prepare_export(tmp_path, images, seed=7, scale="cifar"))
    assert read_set(tmp_path).load(name, 4, torch.arange(5)).x.equal((source.pixels(name, 4, torch.arange(5)) * 255).round().byte())


def test_frost_photos_make_the_same_pixels_in_every_command(data_dir):
    images, folder = load_images("shapes", "test", n=5), str(data_dir / "frost")
    whole = {"model": network(10), "x": images.x, "y": images.y, "ids": images.ids, "batch_size": 2}
    source = source_from_images(images, ["frost"], [3], scale="auto", photos=folder, seed=0, device="cpu")
    audited = changed(f"frost,photos={folder}", **whole)
    assert torch.equal(audited.x(torch.arange(5)), source.pixels("frost", 3, torch.arange(5)))
    assert audited.name == "frost-3-photos"
    assert not torch.equal(audited.x(torch.arange(5)), changed("frost", **whole).x(torch.arange(5)))


def test_words_stand_for_sets_of_corruptions():
    def names(*sentences):
        return tuple(recipe.name for recipe in corruption_recipes(sentences))

    assert names("fifteen") == FIFTEEN
    assert set(names("nineteen")) == set(NINETEEN) <= set(CORRUPTIONS)  # a corruption that is added later belongs to no published set
    assert names("contrast", "noise") == ("contrast", "gaussian_noise", "shot_noise", "impulse_noise")
    with pytest.raises(InputError, match="did you mean 'contrast'"):
        corruption_recipes(["contrst"])


def test_every_table_and_picture_comes_out_and_they_agree(tmp_path):
    out = tmp_path / "out"
    robench("corrupt", CHECKPOINT, *FEW, "--severity", "1,5", "--n", 40, "--out", out)
    rows = {(row["probe"], row["setting"].partition(" ")[0], row["metric"]): row for row in read(out / "rows.csv")}
    samples = read(out / "samples.csv")
    for corruption in ("contrast", "gaussian_noise"):
        for severity in (1, 5):
            cell = rows[corruption, f"severity={severity}", "accuracy"]
            mine = [line[f"pred_{severity}"] == line["label"] for line in samples if line["probe"] == corruption]
            assert (float(cell["value"]), int(cell["n"])) == (pytest.approx(sum(mine) / 40), 40)
            assert cell["data"] == "shapes-c-synth"
            assert "scale=cifar" in cell["setting"]
    pages = {path.name for path in out.iterdir()}
    assert "over the severity, measured at 1 and 5; 0 is the image as it is" in (out / "report.html").read_text()
    assert {"heat-shapes-cnn-pgd-at-pt.png", "severities.png", "sheet.png", "report.html", "manifest.json"} < pages
    assert json.loads((out / "manifest.json").read_text())["data"]["scale"] == "cifar"


def test_what_is_exported_is_read_back_with_the_same_verdicts(tmp_path):
    robench("corrupt", CHECKPOINT, *FEW, "--n", 30, "--out", tmp_path / "made", "--export", tmp_path / "set")
    assert np.load(tmp_path / "set" / "contrast.npy").shape == (150, 32, 32, 3)
    robench("corrupt", CHECKPOINT, "--from", tmp_path / "set", "--data", "shapes", "--n", 30, "--out", tmp_path / "read")
    one, other = (
        {(row["probe"], row["metric"], row["setting"].partition(" ")[0]): row["value"] for row in read(tmp_path / kind / "rows.csv")}
        for kind in ("made", "read")
    )
    assert one == other
    assert {row["data"] for row in read(tmp_path / "read" / "rows.csv")} == {"shapes-c-synth"}
    robench("corrupt", CHECKPOINT, "--from", tmp_path / "set", "--n", 20, "--out", tmp_path / "alone")
    alone = read(tmp_path / "alone" / "rows.csv")
    assert not {row["probe"] for row in alone} & {"clean"}
    assert not {row["metric"] for row in alone} & {"relative_error", "relative_accuracy"}


def test_images_can_be_written_without_a_model_and_are_not_written_twice(tmp_path):
    robench("corrupt", "--data", "shapes", *FEW, "--n", 12, "--export", tmp_path / "set")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "set").glob("*noise.npy")}
    robench("corrupt", "--data", "shapes", *FEW, "--corruption", "pixelate", "--n", 12, "--export", tmp_path / "set")
    assert {path.name for path in (tmp_path / "set").iterdir()} == {
        "contrast.npy", "gaussian_noise.npy", "pixelate.npy", "labels.npy", "robench.json"
    }  # fmt: skip
    assert before == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "set").glob("*noise.npy")}
    assert "another seed" in refused("corrupt", "--data", "shapes", *FEW, "--n", 12, "--seed", 1, "--export", tmp_path / "set")


def test_a_model_against_itself_has_an_mce_of_one(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom torch import nn\n\ndef guess():\n    with torch.random.fork_rng():\n        torch.manual_seed(0)\n"
        "        return nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)).eval()\n"
    )
    words = ["corrupt", f"{tmp_path}/mine.py:guess", "--data", "shapes", "--n", 25, "--out", tmp_path / "out"]
    shown = robench(*words, "--reference", f"{tmp_path}/mine.py:guess")
    assert f"reference {words[1].rpartition('/')[2]}, sha256" in " ".join(shown.stdout.split())
    assert "these are few, in points" in " ".join(shown.stderr.split())  # an untrained network loses nothing under corruptions
    found = [row for row in read(tmp_path / "out" / "rows.csv") if row["probe"] == "corruptions" and row["value"]]
    rows = {row["metric"]: float(row["value"]) for row in found}
    assert rows["mce"] == pytest.approx(1)
    about = json.loads((tmp_path / "out" / "manifest.json").read_text())
    reference = about["corruptions"]["reference"]
    assert reference["sha256"] == about["checkpoint"]["sha256"]
    clean = next(row["value"] for row in read(tmp_path / "out" / "rows.csv") if row["probe"] == "clean")
    assert reference["clean_accuracy"] == pytest.approx(float(clean))
    assert set(reference["accuracy"]) == set(FIFTEEN)
    words = next(row["setting"] for row in found if row["metric"] == "mce").split()
    assert f"reference_sha256={reference['sha256'][:12]}" in words
    assert rows["mean_corruption_error"] == pytest.approx(1 - rows["mean_accuracy"], abs=0.2)


def test_a_run_that_was_killed_goes_on_to_the_same_rows(tmp_path):
    words = ["corrupt", str(CHECKPOINT), "--corruption", "nineteen", "--n", "60", "--threads", "1", "--quiet", "--out"]
    robench(*words, tmp_path / "whole")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.Popen([sys.executable, "-m", "robench", *words, str(tmp_path / "killed")], env=environment)
    state = tmp_path / "killed" / "state-0.jsonl"
    for _ in range(600):
        if state.exists() and state.read_bytes().count(b"\n") > 4:
            break
        time.sleep(0.05)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert state.read_bytes().count(b"\n") > 4
    assert not (tmp_path / "killed" / "rows.csv").exists()
    assert "pass --resume" in refused(*words, tmp_path / "killed")
    robench(*words, tmp_path / "killed", "--resume")
    assert (tmp_path / "killed" / "rows.csv").read_text() == (tmp_path / "whole" / "rows.csv").read_text()
    assert (tmp_path / "killed" / "samples.csv").read_text() == (tmp_path / "whole" / "samples.csv").read_text()
    assert "seed was 0 and is 1" in refused(*words[:-1], "--seed", 1, "--resume", "--out", tmp_path / "killed")


def noisy_set(folder, seed):
    """An exported set with the labels of the first 20 test images of shapes, in whose arrays all pixels are noise."""
    robench("corrupt", "--data", "shapes", *FEW, "--n", 20, "--export", folder)
    for path in (folder / "contrast.npy", folder / "gaussian_noise.npy"):
        np.save(path, np.random.default_rng(seed).integers(0, 256, (100, 32, 32, 3), dtype=np.uint8))


def test_a_run_does_not_go_on_with_another_set_of_the_same_labels(tmp_path):
    words = ["corrupt", CHECKPOINT, "--n", 20, "--out", tmp_path / "out", "--from"]
    noisy_set(tmp_path / "one", 0)
    noisy_set(tmp_path / "other", 1)
    robench(*words, tmp_path / "one")
    before = (tmp_path / "out" / "rows.csv").read_bytes()
    assert "with other words (pixels of contrast was" in refused(*words, tmp_path / "other", "--resume")
    assert (tmp_path / "out" / "rows.csv").read_bytes() == before
    robench(*words, tmp_path / "one", "--resume")
    assert (tmp_path / "out" / "rows.csv").read_bytes() == before


def test_a_run_does_not_go_on_with_other_clean_images_of_the_same_labels(tmp_path):
    noisy_set(tmp_path / "set", 0)
    images = load_images("shapes", "test", n=20)
    for name, x in (("one", images.x), ("other", 255 - images.x)):
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "c.npz", x=x.permute(0, 2, 3, 1).numpy(), y=images.y.numpy())
    words = ["corrupt", CHECKPOINT, "--from", tmp_path / "set", "--out", tmp_path / "out", "--data"]
    robench(*words, f"npz:{tmp_path}/one/c.npz")
    assert "with other words (clean was" in refused(*words, f"npz:{tmp_path}/other/c.npz", "--resume")


def test_an_exported_set_is_replaced_by_force_alone(tmp_path, data_dir):
    words = ["corrupt", "--data", "shapes", "--corruption", "frost", "--n", 6, "--export", tmp_path / "set", "--frost-dir"]
    for name, tone in (("one", 40), ("other", 90)):
        (tmp_path / name).mkdir()
        Image.new("RGB", (200, 200), (tone, tone, tone)).save(tmp_path / name / "frost.png")
    robench(*words, tmp_path / "one")
    before = (tmp_path / "set" / "frost.npy").read_bytes()
    assert "made with other frost photos: choose another folder, or pass --force" in refused(*words, tmp_path / "other")
    assert (tmp_path / "set" / "frost.npy").read_bytes() == before
    robench(*words, tmp_path / "other", "--force")
    assert (tmp_path / "set" / "frost.npy").read_bytes() != before
    assert {path.name for path in (tmp_path / "set").iterdir()} == {"frost.npy", "labels.npy", "robench.json"}
    assert "leave it out" in refused("corrupt", CHECKPOINT, "--n", 6, "--force")


def test_an_export_of_fewer_than_all_images_says_that_robustbench_reads_it_wrongly(tmp_path):
    shown = robench("corrupt", "--data", "shapes", "--corruption", "contrast", "--n", 6, "--export", tmp_path / "set").stderr
    assert "RobustBench reads 10,000 rows a severity, and this set has 6" in " ".join(shown.split())


def test_ctrl_c_says_how_the_run_goes_on(tmp_path):
    words = ["corrupt", str(CHECKPOINT), "--corruption", "nineteen", "--n", "200", "--threads", "1", "--out", str(tmp_path / "out")]
    run = subprocess.Popen([sys.executable, "-c", INTERRUPTIBLE, *words], stderr=subprocess.PIPE, text=True)
    state = tmp_path / "out" / "state-0.jsonl"
    for _ in range(600):
        if state.exists() and state.read_bytes().count(b"\n") > 4:
            break
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    stderr = run.communicate(timeout=60)[1]
    assert run.returncode == 130
    assert "--resume --out" in stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["state-0.jsonl"]


def test_an_exported_set_says_which_frost_it_has(tmp_path, data_dir):
    words = ["corrupt", "--data", "shapes", "--corruption", "frost", "--n", 6, "--export", tmp_path / "set"]
    robench(*words, "--frost-dir", data_dir / "frost")
    assert "frost" in refused(*words)
    robench("corrupt", CHECKPOINT, "--from", tmp_path / "set", "--n", 6, "--out", tmp_path / "out")
    assert "frost=photos" in read(tmp_path / "out" / "rows.csv")[0]["setting"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([CHECKPOINT, "--corruption", "fogg"], "did you mean 'fog'"),
        ([CHECKPOINT, "--severity", "6"], "severities are whole numbers from 1 to 5"),
        ([CHECKPOINT, "--severity", "1,1"], "each once"),
        ([CHECKPOINT, "--scale", "tiny"], "scale"),
        ([CHECKPOINT, "--frost-dir", "nowhere", "--corruption", "fog"], "leave it out"),
        ([CHECKPOINT, "--frost-dir", "nowhere", "--corruption", "frost"], "nowhere"),
        ([CHECKPOINT, "--reference", "alexnet"], "1000 classes"),
        ([CHECKPOINT, "--from", "nowhere"], "not a folder"),
        ([CHECKPOINT, "--resume"], "Pass its folder with --out"),
        ([], "name a model to measure"),
        (["--export", "set"], "pass --data NAME"),
        (["--export", "set", "--data", "shapes", "--severity", "1"], "all five severities"),
        (["--export", "set", "--data", "shapes", "--reference", "x.pt"], "belong to a measurement"),
    ],
)
def test_what_is_wrong_gets_one_sentence(words, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sentence in refused("corrupt", *words, "--n", 8)
    assert not list(tmp_path.rglob("*.csv"))
    assert not list(tmp_path.rglob("*.jsonl"))


def test_a_model_with_too_few_classes_is_refused_before_the_first_cell(tmp_path):
    images = load_images("shapes", "test", n=6)
    labels = images.y.sort().values  # the labels that the second model lacks come last
    source = replace(source_from_images(images, ["contrast"], [1], scale="cifar", photos="", seed=0, device="cpu"), y=labels)
    enough, few = network(10), network(int(labels[-1]))

    def track(*_, **__):
        raise AssertionError("the first cell was begun")

    for clean in (source.clean, None):
        with pytest.raises(InputError, match="out of range"):
            corrupt({"enough": enough, "few": few}, replace(source, clean=clean), batch_size=3, track=track)
