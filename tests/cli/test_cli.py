"""The command line, end to end on the small data: files that come out, numbers in them, and what a user gets wrong."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from commandline import INTERRUPTIBLE, read, refused, robench
from places import DOCS
from torch import nn
from typer.main import get_command

from robench import evaluate, load_model
from robench.cli import app
from robench.cli.loading import missing_classes_note, norm_and_radii
from robench.core.errors import InputError
from robench.core.rows import Row, Sample, wilson

FLAGS = {
    "train": """--data --data-dir --download --image-size --resize --interpolation --pixels --workers
        --skip-damaged --layout --n-train --preset --objective --reg --arch --activation
        --normalize --mean --std --norm --eps --epochs --batch-size --accumulate --teacher --optimizer --lr --momentum --nesterov
        --weight-decay --freeze
        --schedule --augment --mixup --cutmix --awp --awp-warmup --ema --swa --extra --label-smoothing --precision --compile --guard
        --held-out --select --suite --measure --sweep --eval-n --seed --device --threads --out --resume --force --log --quiet
        --seeds --on --gpus-each --init --weights --new-head --trust --plan""",
    "eval": """--suite --data --data-dir --download --split --image-size --resize --interpolation --pixels --workers --skip-damaged
        --layout --class-order --classes --label-map
        --outputs --n --shuffle --indices --norm --eps --threat --budget --scale --frost-dir --score
        --until --engine --precision --compile --seed --batch-size --arch --activation --weights --mean --std --trust --device
        --threads --out --resume --force --save --save-png --strict --plan --log --quiet""",
    "attack": """--attack --data --data-dir --download --split --image-size --resize --interpolation --pixels --workers --skip-damaged
        --layout --class-order --classes --label-map
        --outputs --n --shuffle --indices --norm --eps --threat --budget --scale --frost-dir --score
        --until --engine --precision --compile --seed --batch-size --arch --activation --weights --mean --std --trust --device
        --threads --out --resume --force --save --save-png --strict --plan --log --quiet""",
    "saliency": """--method --score --target --channels --block --layer --against --join --inductive --data --data-dir --download --split
        --image-size --resize --interpolation --pixels --workers --skip-damaged --layout --class-order --classes --label-map --outputs
        --n --shuffle
        --indices --norm --eps --seed --batch-size --arch --activation --weights --mean --std --trust --budget --device
        --threads --out --resume --force --save --strict --plan --log --quiet""",
    "corrupt": """--corruption --severity --from --scale --frost-dir --reference --export --data --data-dir --download --split
        --image-size --resize --interpolation --pixels --workers --skip-damaged --layout --class-order --classes --label-map
        --outputs --n --shuffle --indices
        --seed --batch-size --arch --activation --weights --mean --std --trust --budget --device --threads --out --resume
        --force --save --strict --plan --log --quiet""",
    "compare": "--fail-on --alpha --last --strict --out --resume --force --markdown --junit --json --latex --quiet",
    "report": """--out --columns --published --base --last --gate --alpha --data --data-dir --latex --markdown --csv --robustbench
        --about --force --quiet""",
    "rerun": "--set --out --trust --download --resume --force --quiet",
    "list": "--json",
}


def test_the_flags_of_every_command_are_these():
    commands = get_command(app).commands
    found = {name: {o for p in command.params for o in p.opts if o.startswith("--")} for name, command in commands.items()}
    assert found == {name: set(flags.split()) for name, flags in FLAGS.items()}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoints") / "tiny.pt"
    words = ["train", "--reg", "sagr", "--n-train", 1200, "--epochs", 2, "--held-out", 200, "--eval-n", 40, "--seed", 5, "--out", path]
    result = robench(*words)
    assert "clean" in result.stdout
    assert "pgd-20" in result.stdout
    assert "seconds" in result.stdout
    return path


def test_training_writes_a_checkpoint_and_a_json_that_says_how_it_was_made(checkpoint):
    beside = json.loads(checkpoint.with_suffix(".json").read_text())
    about = torch.load(checkpoint, weights_only=True)["meta"]
    assert beside["meta"] == about
    assert len(beside["sha256"]) == 64
    assert about["preset"] == "small"
    assert about["data"]["name"] == "shapes"
    assert (about["data"]["n"], about["data"]["held_out"]) == (1000, 200)
    assert about["recipe"]["reg"] == ["sagr"]
    assert any("sagr is our reconstruction" in note for note in about["notes"])
    assert about["recipe"]["eps"] == 8 / 255
    assert about["recipe"]["seed"] == 5
    assert len(about["history"]) == 2
    assert set(about["history"][0]["terms"]) == {"loss", "ce", "sagr"}
    pgd = about["metrics"]["pgd-20"]
    assert (pgd["n"], pgd["norm"]) == (40, "linf")
    assert (pgd["low"], pgd["high"]) == pytest.approx(wilson(round(pgd["accuracy"] * 40), 40))


def test_eval_writes_tables_manifest_and_pictures_that_agree(checkpoint, tmp_path):
    out = tmp_path / "out"
    result = robench("eval", checkpoint, "--suite", "smoke", "--n", 60, "--seed", 3, "--out", out)
    rows, samples, manifest = read(out / "rows.csv"), read(out / "samples.csv"), json.loads((out / "manifest.json").read_text())
    assert list(rows[0]) == list(Row.__dataclass_fields__)
    assert list(samples[0]) == list(Sample.__dataclass_fields__)
    accuracy = {row["probe"]: float(row["value"]) for row in rows if row["metric"] == "accuracy"}
    assert list(accuracy) == ["clean", "fgsm", "pgd-10", "smoke"]
    assert accuracy["smoke"] == accuracy["pgd-10"] == sum(s["broken_by"] == "" for s in samples) / 60
    assert accuracy["clean"] == sum(s["broken_by"] != "clean" for s in samples) / 60
    assert {(r["checkpoint"], r["preset"], r["data"], r["split"], r["seed"]) for r in rows} == {("tiny.pt", "small", "shapes", "test", "3")}
    assert {row["eps"] for row in rows if row["probe"] == "pgd-10"} == {str(8 / 255)}
    assert [int(s["sample"]) for s in samples] == list(range(60))
    assert all(float(s["distance"]) <= 8 / 255 + 1e-6 for s in samples if s["distance"])
    assert manifest["data"]["n"] == 60
    assert manifest["threat"] == {"norm": "linf", "eps": 8 / 255}
    assert manifest["how"] == {"engine": "robench", "precision": "fp32", "until": None}
    assert len(manifest["checkpoint"]["sha256"]) == 64
    training = manifest["checkpoint"]["training"]
    assert (training["seed"], training["recipe"]["reg"], training["data"]) == (5, ["sagr"], {"name": "shapes", "n": 1000, "held_out": 200})
    assert "training" not in manifest["words"]["checkpoint"], "the words by which a run is known again stay as they were"
    assert {path.name for path in out.iterdir()} == {
        "rows.csv", "samples.csv", "images.csv", "confusion.csv", "manifest.json", "accuracy.png", "examples.png", "confusion.png",
        "report.html", "state-0.jsonl",
    }  # fmt: skip
    assert f"{100 * accuracy['smoke']:.2f}" in result.stdout


def test_the_same_evaluation_twice_gives_the_same_tables_whatever_the_batch_size(checkpoint, tmp_path):
    kept = []
    for name, batch_size in (("a", 250), ("b", 17)):
        robench("eval", checkpoint, "--suite", "smoke", "--n", 50, "--batch-size", batch_size, "--out", tmp_path / name, "--quiet")
        kept.append([(s["sample"], s["clean_pred"], s["broken_by"], s["step"]) for s in read(tmp_path / name / "samples.csv")])
    assert kept[0] == kept[1]


def test_a_smaller_radius_breaks_fewer_images_and_zero_breaks_none(checkpoint, tmp_path):
    left = []
    for number, eps in enumerate(("0", "1/255", "4/255", "16/255")):
        robench("attack", checkpoint, "--eps", eps, "--n", 50, "--out", tmp_path / str(number), "--quiet")
        rows = read(tmp_path / str(number) / "rows.csv")
        left.append([float(r["value"]) for r in rows if r["metric"] == "accuracy"])
    assert left[0][0] == left[0][1]
    assert [after for _, after in left] == sorted((after for _, after in left), reverse=True)


def test_options_of_an_attack_reach_it_and_the_rows(checkpoint, tmp_path):
    robench(
        "attack", checkpoint, "--attack", "pgd,steps=3,restarts=2,loss=margin", "--norm", "l2", "--eps", "0.5", "--n", 20, "--out", tmp_path
    )
    row = next(r for r in read(tmp_path / "rows.csv") if (r["probe"], r["metric"]) == ("pgd", "accuracy"))
    assert row["setting"] == "steps=3 step_size=None restarts=2 loss=margin random_start=True target=none engine=robench"
    assert (row["norm"], row["eps"]) == ("l2", "0.5")
    stands = [s for s in read(tmp_path / "samples.csv") if not s["broken_by"]]
    assert all(int(s["backwards"]) == 6 for s in stands)


@pytest.mark.parametrize(
    "words", [["eval", "--suite", "smoke"], ["attack"], ["saliency", "--method", "saliency", "--score", "gini"], ["corrupt"]]
)
def test_every_measuring_command_says_which_classes_the_first_images_miss(checkpoint, tmp_path, words):
    x, y = np.random.default_rng(0).integers(0, 256, (60, 32, 32, 3), dtype=np.uint8), np.arange(60) // 6
    np.savez(tmp_path / "sorted.npz", x_test=x, y_test=y)
    rest = [checkpoint, *words[1:], "--data", f"npz:{tmp_path}/sorted.npz"]
    rest += ["--corruption", "fog", "--severity", 1] * (words[0] == "corrupt")
    shown = robench(words[0], *rest, "--n", 12, "--out", tmp_path / "some").stderr
    assert shown.count("Note: the 12 images hold 2 of 10 classes: --n takes more of them, --shuffle any instead of the first") == 1
    assert "classes" not in robench(words[0], *rest, "--n", "all", "--out", tmp_path / "all").stderr


def test_an_attack_that_refuses_the_model_leaves_nothing(checkpoint, tmp_path):
    words = ["attack", checkpoint, "--attack", "pgd,target=17", "--n", 20, "--out", tmp_path / "out"]
    assert "target=17 is no class of the model" in refused(*words)
    assert not (tmp_path / "out").exists()


def test_an_attack_of_the_users_own_joins(checkpoint, tmp_path):
    page = (DOCS / "adding-an-attack.md").read_text()
    (tmp_path / "my_attack.py").write_text(page.split("```python\n")[1].split("```")[0])
    robench("attack", checkpoint, "--attack", f"{tmp_path}/my_attack.py:momentum,steps=8", "--n", 40, "--out", tmp_path / "own")
    robench("attack", checkpoint, "--attack", "fgsm", "--n", 40, "--out", tmp_path / "fgsm")
    own, fgsm = (
        next(float(r["value"]) for r in read(tmp_path / name / "rows.csv") if r["metric"] == "accuracy" and r["probe"] != "clean")
        for name in ("own", "fgsm")
    )
    assert own <= fgsm
    assert {row["probe"] for row in read(tmp_path / "own" / "rows.csv")} == {"clean", "my_attack.py:momentum"}


def test_indices_and_shuffle_choose_the_images(checkpoint, tmp_path):
    (tmp_path / "some.txt").write_text("7\n3\n1999\n")
    robench("attack", checkpoint, "--attack", "fgsm", "--indices", tmp_path / "some.txt", "--out", tmp_path / "a")
    assert [s["sample"] for s in read(tmp_path / "a" / "samples.csv")] == ["7", "3", "1999"]
    robench("attack", checkpoint, "--attack", "fgsm", "--n", 30, "--shuffle", "--seed", 2, "--out", tmp_path / "b")
    drawn = [int(s["sample"]) for s in read(tmp_path / "b" / "samples.csv")]
    assert len(set(drawn)) == 30
    assert drawn != list(range(30))


def test_the_list_command_knows_every_kind(checkpoint):
    from robench.attacks import ATTACKS

    text = robench("list", "attacks").stdout
    assert all(name in text for name in ATTACKS)
    for kind in ("suites", "data", "models", "objectives", "regularizers", "presets"):
        assert len(robench("list", kind).stdout.splitlines()) > 4
    assert "did you mean 'attacks'" in refused("list", "attack")
    assert robench("list", "regularisers").stdout == robench("list", "regularizers").stdout


def test_a_list_has_a_plain_sentence_a_name_that_no_narrow_column_breaks():
    from robench.cli.lists import FUNCTION_TABLES, LIST_KINDS, function_table, list_entries

    for kind in LIST_KINDS:
        if kind == "runs":  # of a folder, not of names
            continue
        lines = list_entries(kind)
        table = list(function_table(kind)) if FUNCTION_TABLES.get(kind) else []
        names = [name for name, _, _ in lines]
        assert names[: len(table)] == table
        assert not table or all("/" in name for name in names[len(table) :])  # forms of names of libraries
        for name, text, _ in lines:
            assert 0 < len(text) <= 140, name
            assert not re.search(r"\(B|\(N|scalar R|float64|>= 0| in \[|logit\[|[\])]\.? ?/ n", text), f"{name}: {text}"
    assert any(
        "One step of size eps from the clean image up the cross-entropy" in line for line in robench("list", "attacks").stdout.splitlines()
    )


def test_options_that_may_be_repeated_take_commas_too(checkpoint, tmp_path):
    from robench.cli.options import split_paths

    words = [
        "--method",
        "saliency,integrated-gradients,steps=4,baseline=mean",
        "--score",
        "gini,entropy",
        "--against",
        "fgsm,gaussian_noise,severity=2",
    ]
    robench("saliency", checkpoint, *words, "--eps", "4/255", "--n", 12, "--out", tmp_path / "audit")
    rows = read(tmp_path / "audit" / "rows.csv")
    assert {row["probe"] for row in rows if row["metric"] == "gini"} == {"saliency", "integrated-gradients"}
    assert any("steps=4" in row["setting"] and "baseline=mean" in row["setting"] for row in rows)
    assert {"images=clean", "images=fgsm", "images=gaussian_noise-2"} <= {word for row in rows for word in row["setting"].split()}
    robench("corrupt", checkpoint, "--corruption", "fog,contrast", "--severity", 1, "--n", 12, "--out", tmp_path / "corrupt")
    assert {"fog", "contrast"} <= {row["probe"] for row in read(tmp_path / "corrupt" / "rows.csv")}
    words = ["--n-train", 300, "--held-out", 50, "--epochs", 1, "--eval-n", 10, "--out", tmp_path / "net.pt"]
    robench("train", "--reg", "l1=1e-6,l2", "--objective", "standard", *words)
    assert json.loads((tmp_path / "net.json").read_text())["meta"]["recipe"]["reg"] == ["l1=1e-6", "l2"]
    (tmp_path / "a,b").mkdir()
    assert split_paths([tmp_path / "a,b", Path("c,d")]) == [tmp_path / "a,b", Path("c"), Path("d")]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--eps", "-1/255"], "cannot be negative"),
        (["--eps", "8/0"], "divides by zero"),
        (["--eps", "big"], "is not a number"),
        (["--norm", "l3"], "unknown norm 'l3'"),
        (["--norm", "l2"], "which radius in l2? tiny.pt was trained with linf eps 8/255, which says nothing about l2: pass --eps"),
        (["--norm", "l1"], "says nothing about l1: pass --eps"),
        (["--suite", "autoatack"], "did you mean 'autoattack'"),
        (["--n", "0"], "neither a number of at least 1 nor 'all'"),
        (["--data", "shape"], "did you mean 'shapes'"),
        (["--data", "mnist", "--data-dir", "/nowhere"], "--download"),
        (["--device", "cuda:77x"], "device"),
        (["--split", "validation"], "split"),
        (["--batch-size", "0"], "batch-size"),
        (["--suite", "pgd", "--n", "20", "--norm", "l2", "--eps", "nan"], "finite number"),
    ],
)
def test_wrong_options_get_a_sentence_and_code_2(checkpoint, tmp_path, words, sentence):
    assert sentence in refused("eval", checkpoint, "--out", tmp_path / "out", *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--reg", "sgr"], "did you mean 'sagr'"),
        (["--reg", "sagr,rh=1"], "did you mean 'rho'"),
        (["--reg", "sagr=-1"], "at least 0"),
        (["--reg", "sagr,sign=positive,output=logits"], "escaped"),
        (["--objective", "pgdat"], "did you mean 'pgd-at'"),
        (["--arch", "resnet19"], "did you mean 'resnet18'"),
        (["--activation", "rely"], "did you mean 'relu'"),
        (["--preset", "smal"], "did you mean 'small'"),
        (["--schedule", "cosin"], "did you mean 'cosine'"),
        (["--optimizer", "sdg"], "did you mean 'sgd'"),
        (["--augment", "crops"], "did you mean 'crop'"),
        (["--epochs", "0"], "--epochs"),
        (["--ema", "1"], "out of range: ema"),
        (["--lr", "nan"], "out of range: lr"),
        (["--lr", "inf"], "out of range: lr inf"),
        (["--cutmix", "inf"], "out of range: cutmix inf"),
        (["--weight-decay", "inf"], "out of range: weight_decay inf"),
        (["--awp", "-1"], "out of range: awp -1"),
        (["--momentum", "1.5"], "out of range: momentum 1.5"),
        (["--optimizer", "adamw", "--momentum", "1"], "out of range: momentum 1"),
        (["--schedule", "milestones,at=0.75:0.5"], "must not decrease, and these do: 0.75:0.5"),
        (["--schedule", "piecewise,first=0.75,second=0.5"], "second of piecewise, not before first, must be"),
        (["--schedule", "one-cycle,peak=2"], "the peak of one-cycle must be"),
        (["--seed", "18446744073709551615"], "less than or equal to 4294967295"),
        (["--threads", "99999999999"], "--threads 99999999999 is more than is sensible on this machine: at most"),
        (["--threads", "100000"], "--threads 100000 is more than is sensible on this machine: at most"),
        (["--image-size", "100000"], "the image size must be at most 4096 pixels, not 100000"),
        (["--image-size", "64", "--resize", "100000"], "the image size must be at most 4096 pixels, not 100000"),
        (["--select", "test"], "select is"),
        (["--held-out", "300"], "cannot hold out 300 of 300"),
        (["--held-out", "2.5"], "neither a share below 1 nor a whole number"),
        (["--held-out", "-0.2"], "neither a share below 1 nor a whole number"),
        (["--batch-size", "251"], "fewer than one batch"),
        (["--normalize", "maybe"], "normalize is"),
    ],
)
def test_wrong_training_options_get_a_sentence_and_leave_nothing(tmp_path, words, sentence):
    out = tmp_path / "net.pt"
    assert sentence in refused("train", "--n-train", 300, "--epochs", 1, "--held-out", 50, "--out", out, *words)
    assert list(tmp_path.iterdir()) == []


def test_a_training_that_diverges_says_so_and_leaves_nothing(tmp_path):
    words = ["train", "--n-train", 600, "--epochs", 2, "--held-out", 50, "--optimizer", "sgd", "--lr", "1e12", "--out", tmp_path / "net.pt"]
    assert "diverged" in robench(*words, code=1).stderr
    assert list(tmp_path.iterdir()) == []


def broken_files(folder, checkpoint):
    """Files that are no model, each with a part of the sentence it gets."""
    data = checkpoint.read_bytes()
    (folder / "cut.pt").write_bytes(data[: len(data) // 2])
    (folder / "empty.pt").write_bytes(b"")
    (folder / "text.pt").write_text("not a model")
    torch.save(nn.Linear(3, 3), folder / "pickle.pt")
    stored = torch.load(checkpoint, weights_only=True)
    name = next(iter(stored["state"]))
    torch.save({**stored, "state": {**stored["state"], name: stored["state"][name] * float("nan")}}, folder / "nan.pt")
    return {"cut.pt": "", "empty.pt": "", "text.pt": "", "pickle.pt": "--trust", "nan.pt": "NaN", "missing.pt": "", ".": ""}


def test_files_that_are_no_model_get_a_sentence_that_names_them(checkpoint, tmp_path):
    for name, words in broken_files(tmp_path, checkpoint).items():
        sentence = refused("eval", tmp_path / name, "--data", "shapes", "--out", tmp_path / "out")
        assert words in sentence
        assert not (tmp_path / "out").exists()


def test_a_model_of_other_images_or_classes_gets_a_sentence(checkpoint, tmp_path):

    grey = tmp_path / "grey.npz"
    np.savez(grey, x_test=np.zeros((20, 28, 28), np.uint8), y_test=np.arange(20) % 10)
    assert "(1, 28, 28)" in refused("eval", checkpoint, "--data", f"npz:{grey}", "--out", tmp_path / "out")
    few = tmp_path / "few.npz"
    np.savez(few, x_test=np.zeros((20, 32, 32, 3), np.uint8), y_test=np.arange(20) % 12)
    assert "the model has 10 outputs, the data 12 classes" in refused("eval", checkpoint, "--data", f"npz:{few}", "--out", tmp_path / "out")


def test_a_folder_that_cannot_be_written_is_named_before_anything_runs(checkpoint, tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot write into" in refused("eval", checkpoint, "--n", 20, "--out", tmp_path / "file" / "out")
    assert "cannot write into" in refused("train", "--n-train", 300, "--out", tmp_path / "file" / "net.pt")


def test_a_source_without_splits_is_used_whole_and_says_so(checkpoint, tmp_path):

    np.savez(tmp_path / "plain.npz", x=np.zeros((20, 32, 32, 3), np.uint8), y=np.arange(20) % 10)
    words = ["attack", checkpoint, "--data", f"npz:{tmp_path}/plain.npz", "--attack", "fgsm", "--out", tmp_path / "out"]
    assert "has no test split" in robench(*words).stderr
    assert "has no test split" in (tmp_path / "out" / "manifest.json").read_text()


def test_a_model_without_known_data_asks_for_it(tmp_path):
    file = tmp_path / "zoo.py"
    file.write_text("from torch import nn\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))\n")
    assert "pass --data" in refused("eval", f"{file}:net", "--out", tmp_path / "out")
    result = robench("attack", f"{file}:net", "--data", "shapes", "--attack", "fgsm", "--n", 40, "--out", tmp_path / "out")
    assert "chance is 1/10" in result.stderr
    assert "chance is 1/10" in (tmp_path / "out" / "manifest.json").read_text()


@pytest.mark.parametrize("command", [["train", "--epochs", "50"], ["eval", "CHECKPOINT", "--n", "all"]])
def test_ctrl_c_ends_with_130_and_leaves_nothing_half_written(checkpoint, tmp_path, command):
    out = tmp_path / "kept" / ("net.pt" if command[0] == "train" else "out")
    words = [str(checkpoint) if word == "CHECKPOINT" else word for word in command]
    call = [sys.executable, "-c", INTERRUPTIBLE, *words, "--out", str(out)]
    process = subprocess.Popen(call, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 60
    while not (out.parent if command[0] == "train" else out).exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    if command[0] == "train":
        assert "epoch 1/50" in process.stderr.readline()
    else:
        time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGINT)  # a shell calls both 130; an interrupt inside a late import ends as the latter
    assert "Interrupted" in stderr
    assert "Traceback" not in stderr
    left = [path.name for path in (tmp_path / "kept").rglob("*") if path.is_file()]
    assert left in ([], ["state-0.jsonl"] if command[0] == "eval" else ["net.state.pt"])
    assert ("--resume" in stderr) == bool(left)


SOFTMAX = """
import torch
from torch import nn
def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(3072, 10), nn.Softmax(1))
"""


def test_strict_fails_with_1_where_a_flag_is_raised_and_the_evidence_is_a_row(checkpoint, tmp_path):
    (tmp_path / "zoo.py").write_text(SOFTMAX)
    words = ["eval", f"{tmp_path}/zoo.py:net", "--data", "shapes", "--suite", "smoke", "--n", 40, "--out"]
    assert robench(*words, tmp_path / "free").exit_code == 0
    assert "--strict was given" in robench(*words, tmp_path / "strict", "--strict", code=1).stderr
    for name in ("free", "strict"):
        rows = {row["metric"]: row for row in read(tmp_path / name / "rows.csv")}
        assert float(rows["flag/probabilities"]["value"]) == 1
        assert float(rows["check/randomised"]["value"]) == 0
    healthy = robench("eval", checkpoint, "--suite", "smoke", "--n", 40, "--strict", "--out", tmp_path / "healthy")
    assert "Flag" not in healthy.stderr


def test_a_security_curve_has_a_row_for_each_radius_and_a_picture(checkpoint, tmp_path):
    result = robench("attack", checkpoint, "--attack", "pgd-20", "--eps", "4/255,1/255,16/255", "--n", 40, "--out", tmp_path / "out")
    rows = [row for row in read(tmp_path / "out" / "rows.csv") if (row["probe"], row["metric"]) == ("pgd-20", "accuracy")]
    left = [(float(row["eps"]), float(row["value"])) for row in rows]
    assert [eps for eps, _ in left] == [1 / 255, 4 / 255, 16 / 255]
    assert [a for _, a in left] == sorted((a for _, a in left), reverse=True)
    for sample in read(tmp_path / "out" / "samples.csv"):
        assert (sample["eps"] == "") == (sample["broken_by"] in ("", "clean"))
    assert (tmp_path / "out" / "curve.png").stat().st_size > 5000
    assert "16/255" in result.stdout
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["threat"]["eps"] == [1 / 255, 4 / 255, 16 / 255]


def test_a_transfer_attack_from_itself_is_as_a_white_box_and_from_another_weaker(checkpoint, tmp_path):
    (tmp_path / "zoo.py").write_text(SOFTMAX.replace(", nn.Softmax(1)", ""))
    left = {}
    for name, surrogate in (("own", checkpoint), ("other", f"{tmp_path}/zoo.py:net")):
        robench("attack", checkpoint, "--attack", f"transfer:{surrogate}", "--eps", "8/255", "--n", 60, "--out", tmp_path / name)
        rows = read(tmp_path / name / "rows.csv")
        left[name] = next(float(r["value"]) for r in rows if r["metric"] == "accuracy" and r["probe"].startswith("transfer:"))
        assert all(str(tmp_path) not in str(row) for row in rows)
        asked = [int(s["backwards"]) for s in read(tmp_path / name / "samples.csv")]
        assert set(asked) == {0}
    assert left["own"] < left["other"]
    for wrong, sentence in (("missing.pt", "missing.pt"), ("zoo.py:net,step=3", "has no option 'step'")):
        words = ["attack", checkpoint, "--attack", f"transfer:{tmp_path}/{wrong}", "--n", 20, "--out", tmp_path / "out"]
        assert sentence in refused(*words)
    assert not (tmp_path / "out").exists()


def test_saved_adversarial_images_fool_the_model_again(checkpoint, tmp_path):

    robench("attack", checkpoint, "--attack", "apgd-ce,steps=20", "--eps", "8/255", "--n", 40, "--save", "--out", tmp_path / "out")
    from robench.models import load_model

    x_adv, samples = torch.from_numpy(np.load(tmp_path / "out" / "x_adv.npy")), read(tmp_path / "out" / "samples.csv")
    with torch.no_grad():
        pred = load_model(checkpoint)(x_adv).argmax(1).tolist()
    assert pred == [int(s["adv_pred"]) for s in samples]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--batch-size", "some"], "neither a number of at least 1 nor 'auto'"),
        (["--until", "0.7"], "between 0 and 0.5"),
        (["--until", "0.1", "--save"], "does not see all images"),
        (["--resume"], "Pass its folder with --out"),
        (["--engine", "torchattacks"], "unknown engine"),
        (["--precision", "fp16"], "fp16"),
        (["--precision", "tf32", "--device", "cpu"], "tf32"),
        (["--eps", "1/255,x"], "is not a number"),
        (["--attack", "transfer:"], ""),
        (["--attack", "square,hope=-1"], "hope"),
        (["--attack", "apgd,large_eps=true"], "large_eps"),
    ],
)
def test_wrong_ways_to_run_get_a_sentence_and_leave_nothing(checkpoint, tmp_path, words, sentence):
    out = [] if "--resume" in words else ["--out", tmp_path / "out"]
    assert sentence in refused("attack", checkpoint, "--n", 20, *out, *words)
    assert not (tmp_path / "out").exists()


def test_a_default_folder_has_a_name_that_every_system_takes_and_no_title_an_empty_word(checkpoint, tmp_path, monkeypatch):
    import numpy as np

    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "own.py").write_text(SOFTMAX)
    monkeypatch.chdir(tmp_path)
    for surrogate in (checkpoint, f"{tmp_path}/zoo/own.py:net"):
        told = robench("attack", checkpoint, "--attack", f"transfer:{surrogate}", "--eps", "0.25/255", "--n", 4).stdout
        assert "linf eps = 0.25/255, seed 0" in told
    robench("corrupt", checkpoint, "--corruption", "contrast,brightness", "--severity", "1,2", "--n", 6)
    folders = [path.name for path in (tmp_path / "results").iterdir()]
    assert len(folders) == 3
    for name in folders:
        assert re.fullmatch(r"[0-9]{8}-[0-9]{6}-[A-Za-z0-9_.-]+", name)
        assert tmp_path.name not in name
    (tmp_path / "set").mkdir()
    np.save(tmp_path / "set" / "fog.npy", np.random.default_rng(0).integers(0, 256, (30, 32, 32, 3), np.uint8))
    np.save(tmp_path / "set" / "labels.npy", np.tile(np.arange(6), 5))
    read_again = robench("corrupt", checkpoint, "--from", tmp_path / "set", "--corruption", "fog", "--n", 6, "--out", tmp_path / "c").stdout
    assert ", ," not in read_again
    assert ", seed 0" in read_again


def test_a_batch_size_is_found_and_a_run_stops_at_its_half_width(checkpoint, tmp_path):
    words = ["--n", 400, "--batch-size", "auto", "--until", "0.2", "--threads", 1, "--out", tmp_path / "out"]
    shown = robench("attack", checkpoint, "--attack", "fgsm", *words).stdout
    first = shown.partition("└")[0]  # the classes have tables of their own
    cells = [line.split("┃")[3].strip() for line in first.splitlines() if line.startswith("┃")]
    assert " ".join(cells) == "95 % interval of the 400 chosen images"
    row = next(r for r in read(tmp_path / "out" / "rows.csv") if (r["probe"], r["metric"]) == ("fgsm", "accuracy"))
    assert (float(row["high"]) - float(row["low"])) / 2 <= 0.2
    assert int(row["n"]) == len(read(tmp_path / "out" / "samples.csv")) <= 400


def test_a_radius_of_one_norm_is_used_in_no_other(tmp_path):
    assert norm_and_radii({}, None, None, "m.pt") == ("linf", (8 / 255,))
    assert norm_and_radii({"norm": "l2", "eps": 2.0}, None, None, "m.pt") == ("l2", (2.0,))
    assert norm_and_radii({"norm": "l2", "eps": 2.0}, "l2", None, "m.pt") == ("l2", (2.0,))
    assert norm_and_radii({"norm": "l2", "eps": 2.0}, "linf", (0.1,), "m.pt") == ("linf", (0.1,))
    for recipe, norm, words in (
        ({"norm": "l2", "eps": 2.0}, "linf", "m.pt was trained with l2 eps 2"),
        ({"norm": "l2"}, None, "the default 8/255 is of linf"),
        ({}, "l2", "the default 8/255 is of linf"),
    ):
        with pytest.raises(InputError, match=words):
            norm_and_radii(recipe, norm, None, "m.pt")
    assert "which radius in l2" in refused("attack", "x.py:model", "--data", "shapes", "--norm", "l2", "--out", tmp_path / "out")
    said = refused("train", "--data", "shapes", "--norm", "l2", "--out", tmp_path / "net.pt")
    assert "which radius in l2? The preset small has linf eps 8/255, which says nothing about l2: give eps (--eps)" in said
    with pytest.raises(InputError, match="which radius in l1"):
        evaluate(torch.nn.Flatten(), torch.zeros(1, 1, 2, 2), [0], norm="l1", suite="smoke")


def test_the_result_of_a_training_names_the_split_and_where_nothing_else_is_said_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["train", "--n-train", 200, "--epochs", 1, "--held-out", 50, "--eval-n", 10, "--suite", "fgsm", "--quiet"]
    shown = " ".join(robench(*words).stdout.split())
    assert "measured on shapes test" in shown
    assert str(next(Path("checkpoints").glob("*.pt"))) in shown
    assert "measured on shapes held out" in " ".join(robench(*words, "--measure", "held-out", "--out", "net.pt").stdout.split())


@pytest.mark.parametrize("words", [["--out", ""], ["--out="], ["--data-dir", " "]])
def test_an_empty_word_is_refused_and_writes_nothing(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command in (["eval", "m.pt"], ["compare", "a", "b"], ["train"]):
        assert f"{words[0].rstrip('=')} has an empty value, as where a variable of the shell is not set" in refused(*command, *words)
    assert "an argument is empty" in refused("eval", "")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_name_of_a_model_or_path_is_refused():
    with pytest.raises(InputError, match="no model is named"):
        load_model("")
    with pytest.raises(InputError, match="folder is an empty path"):
        evaluate(torch.nn.Flatten(), torch.zeros(1, 1, 2, 2), [0], suite="smoke", folder="")
    assert "transfer: names no model" in refused("attack", "m.py:net", "--data", "shapes", "--attack", "transfer:")


def test_one_image_is_no_plural():
    assert missing_classes_note(torch.tensor([0]), ["a", "b"]).startswith("the one image holds 1 of 2 classes: ")
    assert missing_classes_note(torch.tensor([0, 0]), ["a", "b"]).startswith("the 2 images hold 1 of 2 classes: ")
