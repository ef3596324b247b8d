"""The workflows run as they are: what they say is read from their files and run here, for nights that pass, fall and are killed.

`pip install` is left out, as robench is here already; caches and artifacts are copied folders.
"""

import csv
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from places import CHECKPOINT, DOCS, ROOT
from typer.main import get_command

from robench.cli import app

GITHUB, NIGHTLY = ROOT / ".github", DOCS / "nightly"
ACTION = GITHUB / "actions" / "robench" / "action.yml"
WORKFLOWS = [GITHUB / "workflows" / "nightly.yml", GITHUB / "workflows" / "tests.yml", NIGHTLY / "github.yml"]
CHEAP = {"suite": "fgsm", "n": "30", "gates": "clean:drop>1%\nfgsm:drop>1%\n", "eval": "--threads 1 --batch-size 2 --quiet"}
EXPRESSION = re.compile(r"\$\{\{ *(.+?) *\}\}")


def loaded(path):
    """A YAML file; the key `on` of a workflow is read as true by YAML 1.1."""
    content = yaml.safe_load(path.read_text())
    return {("on" if key is True else key): value for key, value in content.items()}


def with_values(text, values):
    """A text with the values of its expressions; those of an unknown name are empty, as with GitHub."""

    def value(found):
        words = [word.strip() for word in found[1].split("||")]
        return str(next((known for word in words if (known := values.get(word, word if word in ("true", "false") else ""))), ""))

    return EXPRESSION.sub(value, str(text))


@pytest.fixture
def tools(tmp_path):
    """A folder for PATH with `robench` as a process of its own, and with a pip that installs nothing."""
    folder = tmp_path / "tools"
    folder.mkdir()
    (folder / "robench").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m robench "$@"\n')
    (folder / "python").write_text(f'#!/bin/sh\n[ "$1 $2" = "-m pip" ] && exit 0\nexec "{sys.executable}" "$@"\n')
    for path in folder.iterdir():
        path.chmod(0o755)
    return folder


@pytest.fixture(scope="session")
def weaker(tmp_path_factory):
    """The checkpoint with noise on its weights."""
    path = tmp_path_factory.mktemp("weaker") / "model.pt"
    content = torch.load(CHECKPOINT, weights_only=True)
    for weight in content["state"].values():
        if weight.is_floating_point() and weight.dim() > 1:
            weight.add_(1.0 * weight.std() * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    torch.save(content, path)
    return path


class GitHub:
    """What GitHub does with a job: its steps in a fresh copy of the repository, with the caches and artifacts that there are."""

    night_folder = "nights/good"

    def __init__(self, folder, tools, workflow=WORKFLOWS[0]):
        self.workspace, self.cache, self.artifacts = (folder / name for name in ("workspace", "cache", "artifacts"))
        self.tools, self.workflow, self.number = tools, workflow, 0
        self.outputs, self.saved, self.summary = {}, [], folder / "summary.md"

    def start(self, model, again=False, kill=None, **inputs):
        """A run of the workflow, or the last one again; its exit code and what it said."""
        self.number += not again
        shutil.rmtree(self.workspace, ignore_errors=True)
        self.workspace.mkdir(parents=True)
        shutil.copy(model, self.workspace / "model.pt")
        (job,) = loaded(self.workflow)["jobs"].values()
        code, said = 0, ""
        for step in job["steps"]:
            if "robench/.github/actions/robench" in step["uses"] or step["uses"] == "./.github/actions/robench":
                given = {key: with_values(value, {}) for key, value in step["with"].items()}
                code, said = self.action({**given, **CHEAP, "model": "model.pt", **inputs}, kill)
        return code, said

    def action(self, given, kill):
        content, code, said = loaded(ACTION), 0, ""
        assert {*given} <= {*content["inputs"]}
        given = {**{name: one.get("default", "") for name, one in content["inputs"].items()}, **given}
        for step in content["runs"]["steps"]:
            values = {f"inputs.{name}": value for name, value in given.items()}
            values |= {f"steps.night.outputs.{key}": value for key, value in self.outputs.items()}
            values |= {"github.run_number": self.number, "github.run_id": self.number, "github.run_attempt": time.monotonic_ns()}
            if code == 0 or "always()" in step.get("if", ""):
                words = {key: with_values(value, values) for key, value in step.get("with", {}).items()}
                if "run" in step:
                    assert step["shell"] == "bash"
                    env = {key: with_values(value, values) for key, value in step.get("env", {}).items()}
                    code, some = self.run(with_values(step["run"], values), env, kill if step.get("id") == "night" else None)
                    said += some
                else:
                    self.use(step["uses"].partition("@")[0], words)
        return code, said

    def run(self, script, env, kill):
        outputs = self.workspace.parent / "outputs"
        outputs.write_text("")
        env |= {"GITHUB_ACTIONS": "true", "GITHUB_OUTPUT": str(outputs), "GITHUB_STEP_SUMMARY": str(self.summary)}
        env |= {"GITHUB_ACTION_PATH": str(ACTION.parent)}
        done = run_killed(["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", script], self.workspace, self.tools, env, kill)
        self.outputs |= dict(line.split("=", 1) for line in outputs.read_text().splitlines())
        return done

    def use(self, name, words):
        if name == "actions/cache/restore":
            entries = [self.cache / key for key in self.saved if key.startswith(words["restore-keys"])]
            assert not (self.cache / words["key"]).exists()
            if entries:
                shutil.copytree(entries[-1], self.workspace / words["path"])
        elif name == "actions/cache/save":
            shutil.copytree(self.workspace / words["path"], self.cache / words["key"])
            self.saved.append(words["key"])
        elif name == "actions/upload-artifact":
            for path in filter(None, words["path"].split()):
                if (self.workspace / path).exists():
                    shutil.copytree(self.workspace / path, self.artifacts / words["name"] / path)
        else:
            assert name == "actions/setup-python"


class GitLab:
    """What GitLab does with a job: its variables and its script, in a folder whose cached part stays."""

    night_folder = "nights/good"

    def __init__(self, folder, tools):
        self.workspace, self.tools, self.number = folder / "workspace", tools, 0
        self.workspace.mkdir(parents=True)
        shutil.copy(NIGHTLY / "nightly.sh", self.workspace)

    def start(self, model, again=False, kill=None, **inputs):
        self.number += not again
        shutil.copy(model, self.workspace / "model.pt")
        job = loaded(NIGHTLY / "gitlab-ci.yml")["robench"]
        for path in self.workspace.iterdir():
            if path.is_dir() and f"{path.name}/" not in job["cache"]["paths"]:
                shutil.rmtree(path)
        variables = {**job["variables"], **{f"NIGHTLY_{key.upper()}": value for key, value in {**CHEAP, **inputs}.items()}}
        env = {key: value.replace("$CI_PIPELINE_IID", str(self.number)) for key, value in variables.items()}
        script = "\n".join([*job["before_script"], *job["script"]])
        done = run_killed(["bash", "-e", "-o", "pipefail", "-c", script], self.workspace, self.tools, env, kill)
        if kill is None:
            assert (self.workspace / job["artifacts"]["paths"][0] / "report.html").exists()
            junit = self.workspace / job["artifacts"]["reports"]["junit"]
            assert junit.exists() == ("verdict: first" not in done[1])
        return done


class Cron:
    """What cron does with a line of the crontab, in a home folder."""

    night_folder = "nights/good"

    def __init__(self, folder, tools):
        self.home, self.workspace, self.tools, self.number = folder, folder / "robench-nights", tools, 0
        (self.workspace / "venv" / "bin").mkdir(parents=True)
        (self.workspace / "venv" / "bin" / "activate").write_text(f'PATH="{tools}:$PATH"\n')
        for name in ("cron.sh", "nightly.sh"):
            shutil.copy(NIGHTLY / name, self.workspace)

    def start(self, model, again=False, kill=None, **inputs):
        self.number += not again
        shutil.copy(model, self.workspace / "model.pt")
        lines = [line for line in (NIGHTLY / "crontab").read_text().splitlines() if not line.startswith("#")]
        nightly, restart = (re.fullmatch(r"(?:@reboot|(?:\S+ ){5}) *(.+)", line)[1] for line in lines)
        env = {f"NIGHTLY_{key.upper()}": value for key, value in {**CHEAP, **inputs}.items()}
        env |= {"NIGHTLY_NIGHT": f"2026-11-0{self.number}", "HOME": str(self.home)}
        code, said = run_killed(["sh", "-c", restart if again else nightly], self.workspace, self.tools, env, kill)
        subprocess.run(["flock", self.workspace / ".lock", "true"], check=True)  # until all that was killed is gone
        log = (self.workspace / "nightly.log").read_text() if kill is None else ""
        assert code < 0 or bool(said.strip()) == (code != 0)  # which cron mails
        return code, log


def run_killed(call, folder, tools, env, kill):
    """Runs a call, and kills it with all that it started once `kill()` says so; its exit code and what it said."""
    path = f"{tools}:{os.environ['PATH']}"
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("GITHUB_", "NIGHTLY_"))}
    words = {"cwd": folder, "env": {**clean, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **env, "PATH": path}, "text": True}
    with subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True, **words) as process:
        while kill is not None and process.poll() is None:
            if kill():
                os.killpg(process.pid, signal.SIGKILL)
                break
            time.sleep(0.01)
        said, _ = process.communicate()
    return process.returncode, said


def tables(folder):
    """The rows of a night, without its clock."""
    with (folder / "rows.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["metric"] != "seconds"]


@pytest.mark.parametrize("system", [GitHub, GitLab, Cron])
def test_a_first_night_one_that_is_killed_and_goes_on_and_one_that_falls(system, tmp_path, tools, weaker):
    nights = system(tmp_path / "there", tools)
    code, said = nights.start(CHECKPOINT)
    assert (code, "verdict: first" in said) == (0, True), said

    state = nights.workspace / nights.night_folder

    def is_half_done():
        return any(path.read_bytes().count(b"\n") > 4 for path in (state.parent / "tonight").glob("*/state-0.jsonl"))

    code, said = nights.start(CHECKPOINT, kill=is_half_done)
    assert code == -signal.SIGKILL
    code, said = nights.start(CHECKPOINT, again=True)
    assert (code, "verdict: passed" in said) == (0, True), said
    assert [*(state.parent / "tonight").iterdir()] == []
    first, second = sorted(state.iterdir())
    assert tables(first) == tables(second)
    assert len((second / "state-0.jsonl").read_text().splitlines()) == len((first / "state-0.jsonl").read_text().splitlines())

    code, said = nights.start(weaker)
    assert (code, "verdict: fell" in said) == (1, True), said
    code, said = nights.start(weaker)
    assert (code, "verdict: fell" in said) == (1, True), "a night that fell is no base of the next one"
    assert (len([*state.iterdir()]), len([*(state.parent / "fell").iterdir()])) == (2, 2)
    page = (nights.workspace / "nightly-report" / "report.html").read_text()
    assert page.count("<html") == 1
    assert '<p class="verdict bad">Against ' in page
    assert "clean:drop&gt;1%" in page
    assert "fgsm:drop&gt;1%" in page
    assert re.search(r"The list of \d+ images", page), "the images that changed against the last good night"
    code, said = nights.start(weaker, fresh="true")
    assert (code, "verdict: first" in said) == (0, True), said
    if system is GitHub:
        assert "fgsm:drop" in nights.summary.read_text()
        assert nights.outputs["verdict"] == "first"
        names = {path.name for path in nights.artifacts.glob("*/nightly-report/*")}
        assert names == {"report.html", "compare.md", "compare.json", "junit.xml"}
        assert any(path.name == "rows.csv" for path in nights.artifacts.rglob("*"))


STUB = """#!/bin/sh
echo "called: $*" >> calls
case $1 in
  eval) while [ "$1" != --out ]; do shift; done; mkdir -p "$2"; [ "$EVAL_CODE" = 0 ] && echo '{}' > "$2/manifest.json"; exit $EVAL_CODE ;;
  compare) exit $COMPARE_CODE ;;
  report) exit $REPORT_CODE ;;
esac
"""


class Stub:
    """nightly.sh with a robench that does nothing but end with these codes."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "tools").mkdir(parents=True)
        (folder / "tools" / "robench").write_text(STUB)
        (folder / "tools" / "robench").chmod(0o755)

    def start(self, night, eval_code=0, compare_code=0, report_code=0, **env):
        codes = {"EVAL_CODE": str(eval_code), "COMPARE_CODE": str(compare_code), "REPORT_CODE": str(report_code)}
        words = {"NIGHTLY_MODEL": "model.pt", "NIGHTLY_NIGHT": night, **codes, **env}
        (self.folder / "calls").write_text("")
        code, said = run_killed(["bash", str(NIGHTLY / "nightly.sh")], self.folder, self.folder / "tools", words, None)
        return code, said.split("verdict: ")[-1].strip(), (self.folder / "calls").read_text().splitlines()

    def nights(self, kind):
        return sorted(path.name for path in (self.folder / "nights" / kind).iterdir())


@pytest.mark.parametrize(("code", "verdict"), [(0, "passed"), (1, "fell"), (2, "error"), (3, "error")])
def test_a_night_ends_as_its_comparison_did_and_is_a_base_only_where_it_passed(code, verdict, tmp_path):
    stub = Stub(tmp_path)
    assert stub.start("1")[:2] == (0, "first")
    assert stub.start("2", compare_code=code)[:2] == (code, verdict)
    assert stub.nights("good") == (["1", "2"] if code == 0 else ["1"])
    assert stub.nights("fell") == (["2"] if code == 1 else [])
    assert stub.nights("unjudged") == (["2"] if code > 1 else [])
    assert stub.start("2", compare_code=code)[:2] == (code, verdict)  # the same night again
    assert stub.start("10")[:2] == (0, "passed")
    for name in ("report.html", "junit.xml", "compare.md", "compare.json"):
        (tmp_path / "nightly-report" / name).write_text("of the night before")
    assert stub.start("11", eval_code=143)[:2] == (143, "unfinished")
    assert [*(tmp_path / "nightly-report").iterdir()] == []
    assert stub.nights("tonight") == ["11"]  # where it goes on
    assert stub.start("11", report_code=1)[:2] == (0, "passed")
    assert stub.nights("tonight") == []
    assert "11" in stub.nights("good")


def test_what_the_settings_say_is_what_robench_is_asked(tmp_path):
    stub = Stub(tmp_path)
    env = {"NIGHTLY_DATA": "folder:my pictures", "NIGHTLY_EVAL": "--eps 4/255 --threads 1", "NIGHTLY_COMPARE": "--strict"}
    env |= {"NIGHTLY_GATES": "clean:drop>1%\n\n  \nflag:*\n", "NIGHTLY_LAST": "2"}
    for night in ("8", "9", "10", "11"):
        _, _, calls = stub.start(night, **env)
    evaluated, compared, reported = calls
    assert evaluated == (
        "called: eval model.pt --data folder:my pictures --suite autoattack --n 500 --seed 0 --eps 4/255 --threads 1"
        " --out nights/tonight/11 --resume"
    )
    assert compared.startswith("called: compare nights/good nights/tonight/11 --last 2 --fail-on clean:drop>1% --fail-on flag:* --strict")
    page = "called: report nights --out nightly-report/report.html --force --quiet"
    gates = " --gate clean:drop>1% --gate flag:*"
    assert reported == f"{page}{gates} --base nights/good --last 2"
    _, _, calls = stub.start("12", NIGHTLY_BASELINE="base", **env)
    assert calls[1].startswith("called: compare base nights/good/10 nights/good/11 nights/tonight/12 --fail-on")
    assert calls[2] == f"{page}{gates} --base base --base nights/good/10 --base nights/good/11"
    _, _, calls = stub.start("13", **(env | {"NIGHTLY_COMPARE": "--alpha 0.01 --strict --fail-on=gini:rise"}))
    assert calls[2] == f"{page}{gates} --alpha 0.01 --gate gini:rise --base nights/good --last 2"
    _, _, calls = stub.start("14", compare_code=2, **env)  # of gates that the comparison refused the page says nothing
    assert calls[2:] == [page]
    _, _, calls = stub.start("15", report_code=2, **env)
    assert calls[2:] == [f"{page}{gates} --base nights/good --last 2", page]
    assert (
        Stub(tmp_path / "new")
        .start("1", NIGHTLY_BASELINE="base", **env)[2][1]
        .startswith("called: compare base nights/tonight/1 --fail-on")
    )


@pytest.mark.parametrize("kind", ["good", "fell", "unjudged"])
def test_a_night_that_is_killed_before_it_was_compared_is_no_base(kind, tmp_path):
    stub = Stub(tmp_path)
    stub.start("1")
    stub.start("2", compare_code=("good", "fell", "unjudged").index(kind))
    _, _, calls = stub.start("3", eval_code=137)  # the evaluation is over, and nothing more was done
    (tmp_path / "nights" / "tonight" / "3" / "manifest.json").write_text("{}")
    _, _, calls = stub.start("4", NIGHTLY_BASELINE="base")
    good = "nights/good/1 nights/good/2" if kind == "good" else "nights/good/1"
    assert calls[1].startswith(f"called: compare base {good} nights/tonight/4 --markdown")
    assert stub.start("2")[:2] == (0, "passed")  # mended, and compared again
    assert {"1", "2", "4"} == {*stub.nights("good")}
    assert (stub.nights("fell"), stub.nights("unjudged"), stub.nights("tonight")) == ([], [], ["3"])


def test_cron_mails_no_page_of_the_night_before(tmp_path):
    for name in ("cron.sh", "nightly.sh"):
        shutil.copy(NIGHTLY / name, tmp_path)
    stub = Stub(tmp_path)
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "activate").write_text("")
    (tmp_path / "nightly-report").mkdir()
    page = tmp_path / "nightly-report" / "report.html"
    for lock, env in (([], {"EVAL_CODE": "143"}), (["flock", ".lock"], {})):
        page.write_text("of the night before")
        code, said = run_killed([*lock, "bash", "cron.sh"], tmp_path, stub.folder / "tools", {"NIGHTLY_NIGHT": "1", **env}, None)
        assert code == (2 if lock else 143)
        assert "It wrote no page." in said
        assert "The page is" not in said


def test_old_nights_go_and_a_fresh_start_leaves_them_on_the_page(tmp_path):
    stub = Stub(tmp_path)
    for night in ("8", "9", "10", "11"):
        stub.start(night, NIGHTLY_KEEP="3")
    assert stub.nights("good") == ["10", "11", "9"]
    assert stub.start("12", NIGHTLY_KEEP="3", NIGHTLY_FRESH="true")[:2] == (0, "first")
    assert (stub.nights("good"), stub.nights("before")) == (["12"], ["10", "11", "9"])


def test_a_night_that_gets_sigterm_hands_it_on_and_ends_when_its_state_is_on_the_disk(tmp_path):
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "robench").write_text(
        "#!/bin/bash\ntrap 'sleep 0.3; touch saved; exit 143' TERM\ntouch began\nwhile :; do sleep 0.05; done\n"
    )
    (tmp_path / "tools" / "robench").chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}/tools:{os.environ['PATH']}", "NIGHTLY_MODEL": "m.pt", "NIGHTLY_NIGHT": "1"}
    with subprocess.Popen(["bash", NIGHTLY / "nightly.sh"], cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True) as process:
        while not (tmp_path / "began").exists():
            time.sleep(0.01)
        process.terminate()
        said, _ = process.communicate()
    assert (tmp_path / "saved").exists()
    assert process.returncode not in (0, 1, 2, 3)
    assert said.endswith("verdict: unfinished\n")


def test_without_a_model_a_night_says_so(tmp_path):
    done = subprocess.run(
        ["bash", NIGHTLY / "nightly.sh"], cwd=tmp_path, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=False
    )
    assert "set NIGHTLY_MODEL" in done.stderr
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_is_bounded_and_pinned_and_may_write_nothing(path):
    content = loaded(path)
    assert content["permissions"] == {"contents": "read"}
    assert "\t" not in path.read_text()
    for job in content["jobs"].values():
        assert 0 < job["timeout-minutes"] <= 360
        used = [step["uses"] for step in job["steps"] if "uses" in step]
        assert all(
            re.fullmatch(r"actions/[a-z/-]+@v\d+|\./\.github/actions/robench|OWNER/robench/\.github/actions/robench@main", one)
            for one in used
        )
    if "schedule" in content["on"]:
        assert re.fullmatch(r"\d+ \d+ \* \* \*", content["on"]["schedule"][0]["cron"])
        assert "workflow_dispatch" in content["on"]


@pytest.mark.parametrize("path", [WORKFLOWS[0], WORKFLOWS[2]], ids=lambda path: path.name)
def test_a_nightly_workflow_names_inputs_that_the_action_has_and_gates_of_its_suite(path):
    from robench.results.gates import parse_gates

    (job,) = loaded(path)["jobs"].values()
    given = job["steps"][-1]["with"]
    assert {*given} <= {*loaded(ACTION)["inputs"]}
    assert [gate.name for gate in parse_gates(given["gates"].split())][:2] == ["clean", given["suite"]]
    assert path.parent == NIGHTLY or (ROOT / given["model"]).is_file()


def test_the_action_puts_no_input_into_a_script_and_hands_every_one_on():
    content = loaded(ACTION)
    steps = content["runs"]["steps"]
    assert all("${{" not in step.get("run", "") for step in steps), "an input in a script is code of whoever wrote it"
    used = re.findall(r"inputs\.([a-z-]+)", ACTION.read_text())
    assert {*used} == {*content["inputs"]}
    (night,) = [step for step in steps if step.get("id") == "night"]
    known = {*re.findall(r"\$\{(NIGHTLY_[A-Z]+):", (NIGHTLY / "nightly.sh").read_text())}
    assert {*night["env"]} == known - {"NIGHTLY_OUT"}
    defaults = dict(re.findall(r"\$\{NIGHTLY_([A-Z]+):-([a-z0-9]*)\}", (NIGHTLY / "nightly.sh").read_text()))
    for name, one in content["inputs"].items():
        if name.upper() in defaults:
            assert str(one["default"]) == defaults[name.upper()], f"{name} means one thing in the action and another in the script"
    restore, save = (step["with"] for step in steps if "cache" in step.get("uses", ""))
    assert (restore["key"], restore["path"]) == (save["key"], save["path"])
    assert restore["key"].startswith(restore["restore-keys"])


def test_the_commands_of_a_night_are_understood():
    script = (NIGHTLY / "nightly.sh").read_text().replace("\\\n", " ")
    calls = [shlex.split(line) for line in re.findall(r"^ *(?:run_to_end .*)?(robench .*?)(?: \|\|.*)?$", script, re.MULTILINE)]
    commands = get_command(app).commands
    seen = []
    for _, name, *words in calls:
        options = {option for parameter in commands[name].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options
        seen.append(name)
    assert sorted(seen) == ["compare", "eval", "report"]
    handed_on = {*re.findall(r"(?:page_words\+=|last_words=)\((--[a-z]+)", script)}
    assert handed_on == {"--gate", "--alpha", "--base", "--last"}
    assert handed_on <= {option for parameter in commands["report"].params for option in parameter.opts}


def test_the_tests_of_a_push_are_those_of_every_change_on_the_oldest_and_the_newest_python():
    import tomllib

    (job,) = loaded(WORKFLOWS[1])["jobs"].values()
    commands = [step["run"] for step in job["steps"] if "run" in step]
    everything = (ROOT / ".ci" / "run").read_text()
    assert all(command.removeprefix("python -m pip install ") in everything for command in commands)
    versions = job["strategy"]["matrix"]["python"]
    oldest = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert oldest == f">={versions[0]}"
    assert versions == sorted(versions, key=lambda version: int(version.split(".")[1]))


def test_the_commands_of_a_push_run(tmp_path):
    (job,) = loaded(WORKFLOWS[1])["jobs"].values()
    env = {**os.environ, "PYTEST_ADDOPTS": f"--collect-only -q -n 0 tests/house/test_layers.py --rootdir {ROOT}"}
    for step in job["steps"]:
        if "run" in step and "pip install" not in step["run"] and step["run"] != "mypy":  # mypy takes a minute, and .ci/run has it
            subprocess.run(["bash", "-e", "-c", step["run"]], cwd=ROOT, env=env, check=True, capture_output=True)


@pytest.mark.parametrize("name", ["nightly.sh", "cron.sh"])
def test_a_script_is_read_by_bash_as_a_whole(name):
    subprocess.run(["bash", "-n", NIGHTLY / name], check=True)
