"""`--plan`: every measuring command says what it will cost, and writes nothing."""

import pytest
from commandline import refused, robench
from places import CHECKPOINT

COMMANDS = {
    "eval": ("eval", CHECKPOINT, "--suite", "smoke", "--save", "--save-png"),
    "attack": ("attack", CHECKPOINT, "--attack", "pgd,steps=3", "--eps", "1/255,2/255"),
    "probe": ("attack", CHECKPOINT, "--attack", "random-noise,t=0.1", "--save"),
    "saliency": ("saliency", CHECKPOINT, "--against", "pgd,steps=2", "--save"),
    "corrupt": ("corrupt", CHECKPOINT, "--corruption", "fog,contrast", "--severity", "1,5", "--save"),
    "mixed": ("eval", CHECKPOINT, "--suite", "fgsm,saliency,fog,inductive-noise,pgd-10 on contrast"),
}
STAGES = {
    "eval": ("fgsm", "pgd-10", "adversarial images", "their pictures"),
    "attack": ("pgd at linf 1/255", "pgd at linf 2/255"),
    "probe": ("random-noise",),
    "saliency": ("saliency", "saliency on pgd"),
    "corrupt": ("fog", "contrast"),
    "mixed": ("fgsm", "saliency", "fog", "inductive-noise", "pgd-10 on contrast-3"),
}


def unfolded(text):
    """The cells of a table, whose words are broken where the terminal is narrow, without their blanks."""
    lines, cells = [line.split("│")[1:-1] for line in text.splitlines() if line.startswith("│")], []
    for line in lines:
        if line[-1].strip() or line[-4].strip():
            cells.append("")
        cells[-1] += "".join(line[0].split())
    return cells


@pytest.mark.parametrize("command", COMMANDS)
def test_each_measuring_command_is_planned_and_writes_nothing(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "run"
    result = robench(*COMMANDS[command], "--n", 6, "--batch-size", 4, "--out", out, "--plan", "--quiet")
    assert not list(tmp_path.iterdir()), "nothing is written, and no folder is made"
    assert not result.stderr
    assert result.stdout.startswith("Plan of")
    assert {stage.replace(" ", "") for stage in STAGES[command]} <= {*unfolded(result.stdout)}
    assert "All 6 images take" in result.stdout


def test_the_notes_say_how_the_table_is_to_be_read_and_where_the_numbers_come_from():
    notes = robench("eval", CHECKPOINT, "--suite", "smoke", "--n", 5, "--plan").stderr
    for words in ("forward + backward", "at most is the time if every image", "left by pgd-10", "of the first 5 images", "resident"):
        assert words in notes


def test_several_models_have_lines_of_their_own(tmp_path):
    models = [tmp_path / "a.pt", tmp_path / "b.pt"]
    for model in models:
        model.write_bytes(CHECKPOINT.read_bytes())
    text = robench("corrupt", *models, "--corruption", "fog", "--n", 4, "--plan", "--quiet").stdout
    assert [sum(line.split("│")[1].strip() == name for line in text.splitlines() if line.startswith("│")) for name in ("a.pt", "b.pt")] == [
        2,
        2,
    ]
    assert "making" in text


def test_a_budget_is_set_against_the_time_of_all_images():
    few = robench("eval", CHECKPOINT, "--suite", "apgd-t", "--n", 50, "--budget", "2s", "--plan", "--quiet").stdout
    assert "A budget of 2.0 s is enough for" in few
    assert "of the 50 images" in few
    assert "--resume goes on" in few


def test_an_attack_whose_passes_cannot_be_counted_is_said_to_be_unknown(tmp_path):
    own = tmp_path / "own.py"
    own.write_text("def choosy(model, x, y, threat, draws):\n    return model.network.features(x)\n")
    text = robench("attack", CHECKPOINT, "--attack", f"{own}:choosy", "--n", 3, "--plan", "--quiet").stdout
    assert "not known" in text
    assert "Without own.py:choosy, of which the cost is not known." in " ".join(text.split())


def test_an_export_is_planned_and_not_begun(tmp_path):
    words = ("--corruption", "fog", "--n", 4, "--export", tmp_path / "set", "--plan", "--quiet")
    assert "exported" in robench("corrupt", "--data", "shapes", *words).stdout
    assert robench("corrupt", CHECKPOINT, *words).stdout.count("Plan of") == 2
    assert not list(tmp_path.iterdir())


def test_what_the_run_would_refuse_the_plan_refuses():
    assert "unknown" in refused("eval", CHECKPOINT, "--suite", "nonsense", "--plan")


def test_an_existing_run_stays_as_it_is(tmp_path):
    words = ("attack", CHECKPOINT, "--attack", "fgsm", "--n", 4, "--out", tmp_path / "run")
    robench(*words, "--quiet")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    robench(*words, "--plan", "--quiet")
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}


def test_one_image_is_no_plural():
    assert "The one image takes" in robench("attack", CHECKPOINT, "--attack", "fgsm", "--n", 1, "--plan", "--quiet").stdout


TRAINING = ("train", "--arch", "mlp,width=8", "--n-train", 120, "--held-out", 20, "--batch-size", 20, "--eval-n", 4, "--suite", "fgsm")


@pytest.mark.parametrize("more", [[], ["--sweep", "lr=0.1:0.2,batch_size=10:20"], ["--seeds", "0,1"]])
def test_a_training_a_sweep_and_seeds_are_planned_and_write_nothing(more, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = [] if not more else ["--out", tmp_path / ("out.pt" if "--seeds" in more else "out")]
    result = robench(*TRAINING, "--epochs", 2, *more, *out, "--plan", "--quiet")
    assert "Plan of" in result.stdout
    assert ("2 of them timed" in result.stdout.replace("\n", " ")) == ("--sweep" in more)
    assert list(tmp_path.rglob("*")) == []


def test_a_training_is_planned_without_its_data_and_says_so(tmp_path):
    notes = " ".join(robench(*TRAINING, "--data", "mnist", "--data-dir", tmp_path, "--plan").stderr.split())
    assert "mnist is not there: 120 made images of 1x28x28 and 10 classes" in notes
    assert "as if every image stood" in notes
    assert "leave --download out" in refused(*TRAINING, "--data", "mnist", "--download", "--plan")
