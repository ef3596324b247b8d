"""A run again, from its manifest: the same tables, what differs and why; and that no manifest makes code run, or writes elsewhere."""

import json
import re
import shutil
import sys
import warnings
from importlib.metadata import version

import pytest
import torch
from commandline import read, refused, robench
from places import ROOT
from torch import nn
from typer.main import get_command

from robench import evaluate, load_model
from robench.cli import app
from robench.cli.calls import NOT_RECORDED, options_of_command
from robench.core.code_permission import ASKED
from robench.data import load_images
from robench.evaluation.repeated_calls import COMMANDS, ONLY_GIVEN, TAKEN, WRITES_ELSEWHERE, words_of_call
from robench.results.table_differences import table_differences

MODEL = ROOT / "checkpoints" / "shapes-cnn-pgd-at.pt"
SAME = "are the same as in"
OWN = """
from pathlib import Path
import torch
Path({canary!r}).write_text("ran")

def factory(classes=10):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, classes))

def attack(model, x, y, threat, draws): raise ValueError
def rain(x, severity, draws): return x.clone()
def score(explained): return explained.x.flatten(1).mean(1)
def digits(split, data_dir): return torch.rand(8, 3, 32, 32), torch.arange(8)
def layout(path, split, name, asked): return None
def regularizer(model, batch): return 0 * batch.x.sum()
"""


def arguments_of(folder):
    """What a manifest says of the call."""
    return json.loads((folder / "manifest.json").read_text())["arguments"]


def write_manifest(folder, **entries):
    """A results folder with a manifest of these entries, and a table."""
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps({"format": 2, "words": {"command": "eval"}, "files": [], **entries}))
    (folder / "rows.csv").write_text("metric,value\naccuracy,1.0\n")
    return folder


def forged(folder, command, models, **options):
    """A results folder whose manifest asks for a call; an underscore in a name of an option is a hyphen."""
    named = {key.rstrip("_").replace("_", "-"): value for key, value in options.items()}
    call = {"command": command, "models": [str(model) for model in models], "options": {"n": 4, **named}, "folder": ""}
    if command == "train":
        call["options"].pop("n")
    return write_manifest(folder, arguments=call)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A current folder of its own, importable from as a shell's is."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """A finished run of a small suite."""
    out = tmp_path_factory.mktemp("runs") / "night"
    robench("eval", MODEL, "--suite", "smoke", "--n", 6, "--eps", "4/255,8/255", "--out", out, "--quiet")
    return out


def copy_of(run, place):
    """A copy of a run, which may be changed."""
    return shutil.copytree(run, place / "copy")


# --- the same again


def test_a_manifest_says_the_call_as_plain_names_and_values_and_the_files_with_their_digests(night):
    manifest = json.loads((night / "manifest.json").read_text())
    assert manifest["format"] == 2
    options = manifest["arguments"]["options"]
    assert (manifest["arguments"]["command"], manifest["arguments"]["models"]) == ("eval", [str(MODEL)])
    assert {key: options[key] for key in ("suite", "n", "eps", "seed", "split")} == {
        "suite": "smoke", "n": 6, "eps": "4/255,8/255", "seed": 0, "split": "test",
    }  # fmt: skip
    assert not {*NOT_RECORDED} & {*options}
    assert [*manifest["files_read"]] == [str(MODEL)]
    assert all(len(digest) == 64 for digest in manifest["files_read"].values())


def test_a_run_again_has_the_same_tables_and_a_manifest_of_its_own(night, here):
    result = robench("rerun", night, "--out", here / "again")
    assert f"The tables {SAME}" in result.stdout
    assert (here / "again" / "samples.csv").read_bytes() == (night / "samples.csv").read_bytes()
    assert arguments_of(here / "again")["options"] == arguments_of(night)["options"]
    assert SAME in robench("rerun", here / "again", "--out", here / "third", "--quiet").stdout


def test_without_out_the_run_goes_to_a_new_numbered_folder(night, here):
    robench("rerun", night, "--quiet")
    robench("rerun", night, "--quiet")
    assert len([folder for folder in (here / "results").iterdir() if folder.name.split("-rerun-")[1].startswith("night")]) == 2


def test_what_is_set_takes_the_place_of_what_was_and_is_named(night, here):
    result = robench("rerun", night, "--set", "n=4", "--set", "suite=fgsm", "--set", "suite=noise", "--set", "eps=default", "--out", "new")
    assert "as is to be expected of --set n and --set suite and --set eps" in result.stdout
    options = arguments_of(here / "new")["options"]
    assert (options["n"], options["suite"], "eps" in options) == (4, ["fgsm", "noise"], False)
    assert {row["n"] for row in read(here / "new" / "rows.csv") if row["metric"] == "accuracy"} == {"4"}
    other = here / "other.pt"
    shutil.copy(MODEL, other)
    robench("rerun", night, "--set", f"models={other}", "--set", "shuffle=true", "--out", "third", "--quiet")
    assert arguments_of(here / "third")["models"] == [str(other)]
    assert arguments_of(here / "third")["options"]["shuffle"] is True


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["foo=1"], "unknown key 'foo'"), (["sede=1"], "did you mean 'seed'?"), (["trust=true"], "pass --trust to rerun itself"),
        (["out=x"], "pass --out to rerun itself"), (["strict=true"], "no use"), (["n"], "write --set KEY=VALUE"), (["n="], "KEY=VALUE"),
        (["n=no"], "neither a number"), (["shuffle=1"], "a switch"), (["n=3", "n=4"], "takes one value"),
        (["eps=-1"], "cannot be negative"),
    ],
)  # fmt: skip
def test_what_cannot_be_set_gets_a_sentence_and_nothing_is_written(night, here, words, sentence):
    assert sentence in refused("rerun", night, *(part for word in words for part in ("--set", word)))
    assert [*here.iterdir()] == []


def test_tables_that_should_be_the_same_and_are_not_end_with_one(night, here):
    copy = copy_of(night, here)
    table = (copy / "rows.csv").read_text()
    (copy / "rows.csv").write_text(table.replace("accuracy,1.0,", "accuracy,0.5,", 1))
    result = robench("rerun", copy, "--out", here / "again", "--quiet", code=1)
    assert "The tables are not the same" in result.stdout
    assert "rows.csv: 1 cell not the same" in result.stdout
    assert "was '0.5' and is '1.0'" in result.stdout


def test_a_file_that_has_changed_is_named_and_one_that_is_missing_ends_it(here):
    suite, indices = here / "mine.txt", here / "some.txt"
    suite.write_text("fgsm\n")
    indices.write_text("0\n1\n2\n")
    robench("eval", MODEL, "--suite", "mine.txt", "--indices", "some.txt", "--out", "night", "--quiet")
    assert {*json.loads((here / "night" / "manifest.json").read_text())["files_read"]} == {"mine.txt", "some.txt", str(MODEL)}
    suite.write_text("noise\n")
    indices.write_text("0\n3\n")
    result = robench("rerun", "night", "--out", "again")
    assert "mine.txt is not the file that it was" in result.stderr
    assert "some.txt is not the file that it was" in result.stderr
    for words in (["--force"], ["--force", "--quiet"]):  # what differs is named also where no note is shown
        said = robench("rerun", "night", "--out", "again", *words).stdout
        assert "not the same as in night, as is to be expected of another file: mine.txt, sha256 " in said
        assert re.search(r" and another file: some.txt, sha256 [0-9a-f]{12} before, [0-9a-f]{12} now. The differences: ", said)
    suite.unlink()
    assert "cannot be repeated without mine.txt" in refused("rerun", "night", "--out", "third")
    assert not (here / "third").exists()


def test_a_factory_without_a_seed_of_its_own_is_another_model_each_time(here):
    (here / "mine.py").write_text(OWN.format(canary=str(here / "canary")))
    robench("eval", "mine.py:factory", "--data", "shapes", "--suite", "noise", "--n", 6, "--out", "night", "--quiet")
    said = robench("rerun", "night", "--trust", "--out", "again", "--quiet").stdout
    assert re.search(r"as is to be expected of another model: mine.py:factory, sha256 \w{12} before, \w{12} now. The differences: ", said)


def test_other_images_are_named_as_such(night, here):
    copy = copy_of(night, here)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["words"]["data"]["sha256"] = "0" * 64
    (copy / "manifest.json").write_text(json.dumps(manifest))
    (copy / "samples.csv").write_text("sample,label\n0,0\n")
    said = robench("rerun", copy, "--out", "again", "--quiet").stdout
    assert "as is to be expected of other images: sha256 000000000000 before, " in said


def test_versions_threads_and_options_that_are_left_out_are_named(night, here):
    copy = copy_of(night, here)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["versions"]["torch"], manifest["threads"] = "1.0", 99
    manifest["arguments"]["options"] |= {"trust": True, "out": "elsewhere", "log": "tensorboard", "export": "away"}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    result = robench("rerun", copy, "--out", "again")
    assert f"torch 1.0 is now {version('torch')}" in result.stderr.replace("\n", " ")
    assert "threads 99 is now 1" in result.stderr
    assert "--trust, --out, --log, --export of the manifest is left out" in result.stderr
    assert SAME in result.stdout
    assert {path.name for path in here.iterdir()} == {"copy", "again"}


def test_a_run_that_was_interrupted_goes_on(night, here):
    robench("rerun", night, "--out", "again", "--quiet")
    assert "holds a finished run" in refused("rerun", night, "--out", "again")
    assert SAME in robench("rerun", night, "--out", "again", "--resume", "--quiet").stdout
    assert SAME in robench("rerun", night, "--out", "again", "--force", "--quiet").stdout
    assert "Pass its folder with --out" in refused("rerun", night, "--resume")
    assert "choose another --out" in refused("rerun", night, "--out", night, "--force")


def test_where_the_clock_decides_other_tables_are_no_failure(night, here):
    copy = copy_of(night, here)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["arguments"]["options"]["budget"] = "20m"
    (copy / "manifest.json").write_text(json.dumps(manifest))
    (copy / "samples.csv").write_text("sample,label\n0,0\n")
    result = robench("rerun", copy, "--out", "again")
    assert "the clock decides how many images it reaches" in result.stderr
    assert "samples.csv" in result.stdout


def test_saliency_and_corruptions_with_what_they_name_are_repeated(night, here):
    (here / "mine.py").write_text(OWN.format(canary=str(here / "canary")))
    robench("saliency", MODEL, "--n", 4, "--against", "fgsm", "--score", "gini", "--out", "maps", "--quiet")
    robench("corrupt", MODEL, "--n", 4, "--corruption", "fog,severity=2", "--corruption", "mine.py:rain,severity=1", "--reference", MODEL,
            "--out", "weather", "--quiet")  # fmt: skip
    assert {*json.loads((here / "weather" / "manifest.json").read_text())["files_read"]} == {str(MODEL), "mine.py"}
    for name, words in {"maps": [], "weather": ["--trust"]}.items():
        result = robench("rerun", name, "--out", f"{name}-2", "--quiet", *words)
        assert SAME in result.stdout, name
        assert (f"Runs code: {here / 'mine.py'}:rain" in result.stderr) is bool(words)


def test_a_joined_run_is_among_the_files(night, here):
    robench("saliency", MODEL, "--n", 6, "--join", night, "--score", "gini", "--out", "maps", "--quiet")
    names = {*json.loads((here / "maps" / "manifest.json").read_text())["files_read"]}
    assert {str(night / name) for name in ("manifest.json", "rows.csv", "samples.csv")} < names
    assert SAME in robench("rerun", "maps", "--out", "again", "--quiet").stdout


def test_a_training_is_repeated_into_a_new_checkpoint_and_its_weights_are_compared(here):
    words = ("--arch", "mlp,width=8", "--n-train", 200, "--held-out", 50, "--epochs", 1, "--eval-n", 4, "--suite", "fgsm", "--quiet")
    robench("train", *words, "--out", "net.pt")
    assert "folder" not in json.loads((here / "net.json").read_text())["meta"]["arguments"]
    assert "The weights are the same as in net.json" in robench("rerun", "net.pt", "--out", "again.pt", "--quiet").stdout
    result = robench("rerun", "net.json", "--set", "seed=1", "--quiet")
    assert (
        "The weights are not the same as in net.json, as is to be expected of --set seed. The differences: their sha256 was"
        in result.stdout
    )
    assert [*(here / "results").glob("*-rerun-net/net.pt")]
    assert "pass --out FILE.pt" in refused("rerun", "net.json", "--out", "folder")
    assert "does not say how the run was called" in refused("rerun", MODEL)


def test_a_run_of_python_says_that_it_cannot_be_repeated(here):
    images = load_images("shapes", n=4)
    evaluate(load_model(MODEL), images, suite=["fgsm"], threats=["linf:8/255"]).save("python")
    assert "made in Python" in json.loads((here / "python" / "manifest.json").read_text())["not_repeatable"]
    assert "it was made in Python" in refused("rerun", "python")


# --- an untrusted manifest


def test_every_option_is_either_taken_from_a_manifest_or_not():
    commands = get_command(app).commands
    known = {name for command in COMMANDS for name in options_of_command(commands[command])}
    assert known <= TAKEN | {*ONLY_GIVEN, *WRITES_ELSEWHERE}
    assert not TAKEN & {*ONLY_GIVEN, *WRITES_ELSEWHERE}
    assert {*WRITES_ELSEWHERE, *ONLY_GIVEN} == {*NOT_RECORDED}


class Canary:
    """What writes a file as it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return exec, (f"open({str(self.path)!r}, 'w').write('ran')",)


def planted(here):
    """Code and stored programs that leave a canary as they run; the names of models that reach them."""
    canary = here / "canary"
    module = f"zoo_{abs(hash(str(here)))}"
    for name in ("mine.py", f"{module}.py"):
        (here / name).write_text(OWN.format(canary=str(canary)))
    package = here / f"{module}_package"
    package.mkdir()
    (package / "__init__.py").write_text(f"open({str(canary)!r}, 'w').write('ran')\n")
    (package / "inner.py").write_text(OWN.format(canary=str(canary)))
    network = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`torch.jit")
        torch.jit.save(torch.jit.trace(network, torch.rand(2, 3, 32, 32)), "script.pt")
    torch.export.save(torch.export.export(network.eval(), (torch.rand(2, 3, 32, 32),)), "program.pt2")
    torch.save({"state_dict": Canary(canary)}, "pickle.pt")
    torch.save(Canary(canary), "legacy.pt", _use_new_zipfile_serialization=False)
    content = torch.load(MODEL, weights_only=True)
    content["meta"]["model"]["arch"] = "mine.py:factory"
    torch.save(content, "ours.pt")
    (here / "suite.txt").write_text("fgsm\nattack:mine.py:attack\n")
    (here / "chained.txt").write_text("fgsm on corruption:mine.py:rain\n")
    (here / "transfer.txt").write_text(f"transfer:{module}:factory\n")
    return module, canary


def ways(module):
    """Every way in which a call can reach code: a name, and the call."""
    models = {
        "a factory": "mine.py:factory", "a factory with options": "mine.py:factory,classes=10", "a module": f"{module}:factory",
        "a module in a package": f"{module}_package.inner:factory", "a script": "script.pt", "a program": "program.pt2",
        "a pickle": "pickle.pt", "an old pickle": "legacy.pt", "a checkpoint with code": "ours.pt",
    }  # fmt: skip
    data = {"data": "shapes"}
    for name, model in models.items():
        yield name, ("eval", [model], {**data, "suite": "fgsm"})
        yield f"transfer from {name}", ("eval", [MODEL], {"suite": f"transfer:{model.partition(',')[0]}"})
        yield f"{name} as reference", ("corrupt", [MODEL], {"corruption": "fog,severity=1", "reference": model})
        yield f"{name} as teacher", ("train", [], {"teacher": model, "objective": "hat", "n-train": 300, "epochs": 1})
    for arch in ("mine.py:factory", f"{module}:factory"):
        yield f"--arch {arch}", ("eval", ["weights.pt"], {**data, "arch": arch, "suite": "fgsm"})
        yield f"--arch {arch} of ours", ("eval", ["ours.pt"], {**data, "arch": arch, "suite": "fgsm"})
        yield f"training of {arch}", ("train", [], {"arch": arch, "n-train": 300, "epochs": 1})
    for suite in ("mine.py:attack", "attack:mine.py:attack", "probe:mine.py:attack", "fgsm on corruption:mine.py:rain", "suite.txt",
                  "chained.txt", "transfer.txt", "fgsm,mine.py:attack", ["fgsm", "mine.py:attack"], "smoke on mine.py:rain",
                  "suite.txt on fog,severity=1"):  # fmt: skip
        yield f"--suite {suite}", ("eval", [MODEL], {"suite": suite})
    yield "--attack", ("attack", [MODEL], {"attack": "mine.py:attack"})
    yield "--score of a suite", ("eval", [MODEL], {"suite": "saliency", "score": "mine.py:score"})
    yield "--data", ("eval", [MODEL], {"suite": "fgsm", "data": "mine.py:digits"})
    yield "--layout", ("eval", [MODEL], {"suite": "fgsm", "data": "folder:tree", "layout": "mine.py:layout"})
    yield "--method", ("saliency", [MODEL], {"method": "method:mine.py:attack"})
    yield "--score", ("saliency", [MODEL], {"score": ["gini", "mine.py:score"]})
    yield "--against", ("saliency", [MODEL], {"against": "corruption:mine.py:rain"})
    yield "--corruption", ("corrupt", [MODEL], {"corruption": "mine.py:rain,severity=1"})
    yield "--reg", ("train", [], {"reg": "mine.py:regularizer=1", "n-train": 300, "epochs": 1})
    yield "--objective", ("train", [], {"objective": "mine.py:regularizer", "n-train": 300, "epochs": 1})
    yield "--suite of a training", ("train", [], {"suite": "fgsm+attack:mine.py:attack", "n-train": 300, "epochs": 1})
    yield "--data of a training", ("train", [], {"data": "mine.py:digits", "epochs": 1})
    yield "--sweep", ("train", [], {"sweep": "reg=mine.py:regularizer=1:l2=1", "n-train": 300, "epochs": 1})


@pytest.mark.parametrize("part", ["option", "eval", "corrupt", "train"])
def test_no_way_to_code_is_gone_without_trust(here, part):
    module, canary = planted(here)
    torch.save(nn.Linear(2, 2).state_dict(), "weights.pt")
    (here / "tree" / "test" / "a").mkdir(parents=True)
    before, other = {path.name for path in here.iterdir()}, []
    of_part = [(name, way) for name, way in ways(module) if part == ("option" if name.startswith("--") else way[0])]
    for number, (name, (command, models, options)) in enumerate(of_part):
        folder = forged(here.parent / f"{here.name}-{number}", command, models, **{f"{key}_": value for key, value in options.items()})
        sentence = refused("rerun", folder)
        assert not canary.exists(), f"{name}: {sentence}"
        assert {path.name for path in here.iterdir()} == before, f"{name}: {sentence}"
        other += [] if "pass --trust" in sentence else [f"{name}: {sentence}"]
    assert not other
    assert not ASKED
    assert module not in sys.modules


def test_the_paths_of_code_are_printed_before_any_of_it_runs(here):
    module, canary = planted(here)
    folder = forged(here / "night", "eval", [f"{module}:factory"], data="shapes", suite="fgsm on corruption:mine.py:rain")
    sentence = refused("rerun", folder)
    assert f"{here / module}.py:factory, {here / 'mine.py'}:rain: look at it first, then pass --trust to rerun" in sentence
    (here / "mine.py").write_text(f"assert False, 'it ran'\n{OWN.format(canary=str(canary))}")
    result = robench("rerun", folder, "--trust", code=2)
    assert result.stderr.index(f"Runs code: {here / 'mine.py'}:rain") < result.stderr.index("it ran")


def test_a_stored_program_runs_with_trust_once_its_path_is_printed(here):
    planted(here)
    robench("eval", "script.pt", "--data", "shapes", "--n", 4, "--suite", "fgsm", "--trust", "--out", "night", "--quiet")
    assert "trust" not in arguments_of(here / "night")["options"]
    assert f"{here / 'script.pt'}" in refused("rerun", "night")
    result = robench("rerun", "night", "--trust", "--quiet")
    assert f"Runs code: {here / 'script.pt'}" in result.stderr
    assert SAME in result.stdout


NONSENSE = [
    None, [], "robench eval x", {"command": "eval"}, {"command": "list", "models": [], "options": {}},
    {"command": ["eval"], "models": [], "options": {}}, {"command": "eval", "models": "a.pt", "options": {}},
    {"command": "eval", "models": [1], "options": {}}, {"command": "eval", "models": [], "options": []},
    {"command": "eval", "models": [], "options": {}}, {"command": "eval", "models": ["-h"], "options": {}},
    {"command": "eval", "models": ["--out=x"], "options": {}}, {"command": "eval", "models": [""], "options": {}},
    {"command": "eval", "models": ["a\x1b[2Jb"], "options": {}}, {"command": "eval", "models": ["x" * 10_000], "options": {}},
    *({"command": "eval", "models": [str(MODEL)], "options": options} for options in (
        {"nn": 4}, {"n": -4}, {"n": True}, {"n": [4, 5]}, {"n": {"a": 1}}, {"n": None}, {"n": 1e300}, {"n": float("nan")}, {"n": ""},
        {"n": "4 --out=x"}, {"shuffle": 1}, {"shuffle": "true"}, {"suite": [["fgsm"]]}, {"suite": []}, {"suite": "nope"}, {"help": True},
        {"--n": 4}, {"n=4 --out": "x"}, {"suite": "a\nb"}, {"indices": "/dev/zero"}, {"suite": "/dev/../nowhere.txt"}, {"save": "here"},
        {"data": "folder:/nowhere"}, {"threads": 10**6}, {"device": "tpu"}, {"suite": "fgsm", "eps": "\u202e8/255"},
    )),
]  # fmt: skip


@pytest.mark.parametrize("arguments", NONSENSE, ids=range(len(NONSENSE)))
def test_a_manifest_of_nonsense_gets_one_sentence_and_nothing_is_written(here, arguments):
    folder = write_manifest(here / "night", arguments=arguments)
    sentence = refused("rerun", folder, "--out", "again")
    assert sentence.startswith("Error: ")
    assert "\x1b" not in sentence
    assert [path.name for path in here.iterdir()] == ["night"]


@pytest.mark.parametrize("content", ["", "[]", "{", "{}", "[" * 10_000, "\x00" * 10_240, '{"arguments": {"command": "eval"}} x', "nan"])
def test_a_manifest_that_is_no_json_of_ours_gets_one_sentence(here, content):
    (here / "night").mkdir()
    (here / "night" / "manifest.json").write_text(content)
    assert refused("rerun", "night").startswith("Error: ")
    (here / "net.json").write_text(content)
    assert refused("rerun", "net.json").startswith("Error: ")


def test_a_manifest_of_a_newer_version_gets_a_sentence(night, here):
    copy = copy_of(night, here)
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, "format": 3}))
    assert "newer robench" in refused("rerun", copy, "--out", "again")


def test_a_manifest_cannot_say_where_a_download_goes(here):
    folder = forged(here / "night", "eval", [MODEL], data="cifar10", data_dir="elsewhere", download=True)
    assert "say so yourself, with --set data-dir=elsewhere" in refused("rerun", folder, "--download")
    assert "cifar10" in refused("rerun", folder)
    assert [path.name for path in here.iterdir()] == ["night"]


# --- tables


def test_differences_of_tables_are_counted_cell_by_cell_and_times_are_none(tmp_path):
    before, now = tmp_path / "before", tmp_path / "now"
    for folder, seconds, value in ((before, 1.0, 0.5), (now, 2.0, 0.25)):
        folder.mkdir()
        (folder / "rows.csv").write_text(f"probe,metric,value\nclean,accuracy,1.0\npgd,accuracy,{value}\npgd,seconds,{seconds}\n")
        (folder / "samples.csv").write_text('sample,label,note\n0,1,"a\nb"\n1,1,\n')
    (found,) = table_differences(before, now)
    assert found.sentence() == "rows.csv: 1 cell not the same, value of 'pgd accuracy' was '0.5' and is '0.25'"
    (now / "samples.csv").write_text("sample,label,note\n0,1,x\n2,1,\n3,1,\n")
    sentence = table_differences(before, now)[1].sentence()
    assert sentence.startswith("samples.csv: 1 cell not the same, 1 line only before, 2 lines only now, note of '0' was")
    (now / "samples-probes.csv").write_text("sample\n")
    assert table_differences(before, now)[1].sentence() == "samples-probes.csv: there is one only now"


def test_words_of_another_ones_tables_cannot_steer_a_terminal(night, here):
    copy = copy_of(night, here)
    (copy / "rows.csv").write_text((copy / "rows.csv").read_text().replace("interval\n", "\x1b[2J\n", 1))
    (copy / "samples-\x1b[2J.csv").write_text("sample\n")
    result = robench("rerun", copy, "--out", "again", "--quiet", code=1)
    assert "\x1b" not in result.output
    assert "x1b[2J" in result.output


def test_a_switch_with_two_words_is_said_again_as_it_was():
    known = options_of_command(get_command(app).commands["train"])
    calls = [{"options": {"nesterov": value, "download": value}, "models": []} for value in (True, False)]
    assert [words_of_call(call, known, "m") for call in calls] == [["--nesterov", "--download"], ["--no-nesterov"]]
