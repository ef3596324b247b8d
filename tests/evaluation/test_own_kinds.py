"""The user's own functions, wherever a name is asked for: what kind they are, what is refused, and that a changed file is another run."""

import json

import pytest
from commandline import read, refused, robench

from robench.core.errors import InputError
from robench.core.recipes import parse_recipe
from robench.evaluation.recipe_kinds import recipe_kind

CODE = """
import torch
from robench.core.types import AttackResult, Level

def flip(model, x, y, draws, *, axis=3, severity=1):
    turned = x.flip(axis)
    fooled, one = model(turned).argmax(1) != y, torch.ones_like(y)
    yield Level(f"axis={axis}", 0, turned, fooled, one.float(), one, 0 * one)

def up(model, x, y, threat, draws):
    x_adv = threat.project(x, x + threat.eps)
    fooled, one = model(x_adv).argmax(1) != y, torch.ones_like(y)
    return AttackResult(x_adv, fooled, one, one, 0 * one, fooled & False)

def dark(x, severity, draws, *, power=1):
    return x * (1 - 0.15 * severity) ** power

def bright(x, severity, draws):
    return x * 3

def maps(model, x, target, draws):
    return x - 0.5

def largest(explained):
    return explained.maps.flatten(1).amax(1)

def penalty(model, batch):
    return batch.logits.square().mean()

def objective(*, scale=1.0):
    from robench.objectives import OBJECTIVES
    return OBJECTIVES["standard"]()

def four(model, x, t, draws):
    return x

def anything(*args):
    return None

def eight(a, b, c, d, e, f, g, h):
    return None
"""
pytestmark = pytest.mark.usefixtures("no_pictures")
COMMANDS = {  # where a recipe is asked for
    "suite": ("eval", "--suite"),
    "attack": ("attack", "--attack"),
    "against": ("saliency", "--against"),
    "corruption": ("corrupt", "--corruption"),
    "method": ("saliency", "--method"),
    "score": ("saliency", "--score"),
    "reg": ("train", "--reg"),
    "objective": ("train", "--objective"),
}
FITS = {
    "suite": {"flip", "up", "dark", "maps"},
    "attack": {"flip", "up", "dark"},
    "against": {"flip", "up", "dark,severity=2"},
    "corruption": {"dark"},
    "method": {"maps"},
    "score": {"largest"},
    "reg": {"penalty"},
    "objective": {"objective"},
}
KINDS = {
    "flip": "probe",
    "up": "attack",
    "dark": "corruption",
    "maps": "method",
    "largest": "score",
    "penalty": "regulariser",
    "objective": "objective",
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the user's file, in which the test runs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(CODE)
    return tmp_path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small model in a file of its own."""
    path = tmp_path_factory.mktemp("model") / "net.py"
    path.write_text(
        "import torch\nfrom torch import nn\n"
        "def net():\n    torch.manual_seed(0)\n    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))\n"
    )
    return f"{path}:net"


def words(place, model, sentence):
    """The call that asks for a recipe in one place."""
    command, option = COMMANDS[place]
    where = ["--data", "shapes", "--out", "out.pt" if command == "train" else "out"]
    return [command, *([model, "--n", 12] if command != "train" else []), option, sentence, *where]


@pytest.mark.parametrize("name", ["flip", "up", "dark", "maps"])
def test_the_arguments_tell_the_kind(here, name):
    assert recipe_kind(parse_recipe(f"mine.py:{name}")) == KINDS[name]


def test_what_the_arguments_cannot_tell_is_asked_for(here):
    for name, ways in {
        "four": "probe:mine.py:four or method:mine.py:four",
        "anything": "attack:mine.py:anything or probe:mine.py:anything",
    }.items():
        with pytest.raises(InputError, match=f"may be more than one thing: say which, as in {ways}"):
            recipe_kind(parse_recipe(f"mine.py:{name}"))
        for kind in ("probe", "method"):
            assert recipe_kind(parse_recipe(f"{kind}:mine.py:{name}")) == kind
    with pytest.raises(InputError, match=r"can be none of what is asked for here: an attack takes \(model, x, y, threat, draws\)"):
        recipe_kind(parse_recipe("mine.py:eight"))


@pytest.mark.parametrize("place", COMMANDS)
@pytest.mark.parametrize("name", KINDS)
def test_a_function_of_another_kind_is_refused_in_one_sentence_before_anything_is_computed(here, model, monkeypatch, place, name):
    if name in {fit.partition(",")[0] for fit in FITS[place]}:
        return
    if (name, place) != ("flip", "method"):  # which takes as many arguments, and is found out when it is tried
        monkeypatch.setattr("robench.cli.measure.load_subjects", None)  # a call of it would be exit code 3
    for sentence in (f"mine.py:{name}", f"{KINDS[name]}:mine.py:{name}"):
        told = refused(*words(place, model, sentence))
        assert "Error: " in told
        assert f"mine.py:{name}" in told
    assert not (here / "out").exists()


@pytest.mark.parametrize("place", COMMANDS)
def test_a_word_that_is_no_kind_is_refused(here, model, place):
    assert "unknown kind 'prob' of 'prob:mine.py:flip': did you mean 'probe'?" in refused(*words(place, model, "prob:mine.py:flip"))
    assert not (here / "out").exists()


@pytest.mark.parametrize(
    ("sentence", "said"),
    [
        ("fgsm on maps", "unknown attack, probe, corruption or method 'maps'"),
        ("fgsm on mine.py:maps", "makes maps and no images"),
        ("fgsm on fifteen", "fifteen is several corruptions"),
        ("fgsm on score:mine.py:largest", "is a score, which is named with --score"),
        ("fgsm=3", "an attack has no weight"),
        ("mine.py:dark,severity=7", "severity must be a whole number from 1 to 5, not 7"),
        ("mine.py:dark,power=soft", "must be a whole number"),
        ("mine.py:dark,sev=3", "has no option 'sev'"),
        ("gini", "gini is a score of saliency maps, which is named with --score"),
        ("mine.py:bright,severity=1", "returned pixels that do not lie in [0, 1]"),
        ("fog,severity=1,scale=cifar,fog,severity=1,scale=imagenet", "is asked for twice"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(here, model, sentence, said):
    assert said in refused("eval", model, "--data", "shapes", "--n", 12, "--suite", sentence, "--out", "out")
    assert not (here / "out").exists()


@pytest.mark.parametrize("kind", ["", "said"])
@pytest.mark.parametrize("place", ["suite", "attack", "against", "corruption", "method", "score"])
def test_a_function_of_ones_own_runs_wherever_its_kind_is_asked_for_and_a_changed_file_is_another_run(here, model, place, kind):
    for number, name in enumerate(sorted(FITS[place])):
        bare, _, options = name.partition(",")
        sentence = f"{KINDS[bare]}:" * bool(kind) + f"mine.py:{name}"
        call = [*words(place, model, sentence)[:-1], f"out-{number}", "--quiet"]
        robench(*call)
        robench(*call, "--resume")
        (here / "mine.py").write_text(CODE + "\n# changed\n")
        assert "other words" in refused(*call, "--resume")
        state = here / f"out-{number}" / "manifest.json"
        state.unlink()  # as a killed run leaves it
        assert "code of recipes" in refused(*call, "--resume")
        (here / "mine.py").write_text(CODE)
        told = {cell for path in (here / f"out-{number}").glob("*.csv") for row in read(path) for cell in (*row, *row.values())}
        assert any(f"mine.py:{bare}" in str(cell) for cell in told), options


@pytest.mark.parametrize("place", ["reg", "objective"])
def test_a_training_with_a_function_of_ones_own_is_another_one_once_the_file_has_changed(here, model, place):
    (name,) = FITS[place]
    short = ["--arch", "mlp", "--epochs", 1, "--n-train", 200, "--eval-n", 4, "--suite", "fgsm", "--quiet"]
    for sentence in (f"mine.py:{name}", f"{KINDS[name]}:mine.py:{name}"):
        call = [*words(place, model, sentence), *short]
        robench(*call, "--force")
        (here / "mine.py").write_text(CODE + "\n# changed\n")
        assert "code" in refused(*call, "--resume")
        (here / "mine.py").write_text(CODE)
        robench(*call, "--resume")


def test_images_of_ones_own_go_on_to_other_stages(here, model):
    suite = "fgsm on mine.py:dark,severity=2,mine.py:up on fog,mine.py:dark,severity=1 on mine.py:up,mine.py:maps on mine.py:flip"
    robench("eval", model, "--data", "shapes", "--n", 12, "--suite", suite, "--out", "out", "--quiet")
    probes = {row["probe"] for row in read(here / "out" / "rows.csv")}
    assert {"fgsm on mine.py:dark-2", "mine.py:up on fog-3", "mine.py:dark on mine.py:up", "mine.py:maps"} <= probes


def test_corruptions_of_ones_own_stand_beside_the_fifteen_and_do_not_enter_their_mean(here, model):
    call = ["corrupt", model, "--data", "shapes", "--n", 12, "--quiet"]
    robench(*call, "--corruption", "fifteen", "--out", "a")
    robench(*call, "--corruption", "fifteen,mine.py:dark,power=2", "--out", "a", "--resume")
    robench(*call, "--corruption", "mine.py:dark,power=2,severity=3,noise", "--severity", "1,2", "--out", "b")
    both, some = read(here / "a" / "rows.csv"), read(here / "b" / "rows.csv")
    assert {row["setting"] for row in both if row["metric"] == "mean_corruption_error"} == {
        "corruptions=15 cells=75 scale=cifar frost=procedural"
    }
    own = [row["setting"] for row in both if row["probe"] == "mine.py:dark" and row["metric"] == "accuracy"]
    assert own == [f"severity={severity} power=2" for severity in (1, 2, 3, 4, 5)]
    cells = {(row["probe"], row["setting"]) for row in some if row["metric"] == "accuracy" and row["probe"] != "clean"}
    noises = {(f"{name}_noise", f"severity={severity} scale=cifar") for name in ("gaussian", "shot", "impulse") for severity in (1, 2)}
    assert cells == noises | {("mine.py:dark", "severity=3 power=2")}
    assert {row["metric"] for row in some if row["setting"].startswith("corruptions=")} >= {"mean_error"}
    manifest = json.loads((here / "b" / "manifest.json").read_text())
    assert manifest["data"]["own"]["mine.py:dark"]["options"] == {"power": 2}


def test_what_a_corruption_of_ones_own_cannot_be_part_of_refuses_it(here, model):
    call = ["corrupt", model, "--data", "shapes", "--n", 12, "--corruption"]
    assert "the layout of CIFAR-10-C, which --export writes, has no mine.py:dark" in refused(*call, "mine.py:dark,fog", "--export", "set")
    assert "a set on the disk, which --from reads, has no mine.py:dark" in refused(*call, "mine.py:dark", "--from", "set")
    assert "--scale is for the corruptions that robench has" in refused(*call, "mine.py:dark", "--scale", "cifar", "--out", "out")
    assert "--frost-dir is for the corruption frost" in refused(*call, "mine.py:dark", "--frost-dir", "photos", "--out", "out")
    assert "asked for in two ways" in refused(*call, "mine.py:dark,power=2,mine.py:dark,power=3", "--out", "out")
    assert "leave severity= out" in refused(*call, "fog,severity=3", "--export", "set")
    assert not (here / "out").exists()
    assert not (here / "set").exists() or not list((here / "set").glob("*.npy"))
