"""The readers of finished runs, as the command line reads them: compare, report, list runs, rerun, and RobustBench's published rows.

What they write is looked at, too: pages, tables, and what is printed.
"""

from __future__ import annotations

import json
import tempfile
from contextlib import chdir
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from page_checks import check_junit, check_latex, check_markdown, check_page, controls
from readers import META, NAMES, Reader, attacked_images, make_checkpoint, make_results, make_state, pixels
from readers import READERS as FILE_READERS
from typer.testing import CliRunner

import robench.cli.rerun
from robench.cli import app
from robench.core.errors import InputError
from robench.models import build_network
from robench.models.checkpoint import save_checkpoint
from robench.report.robustbench_files import published_rows

KEPT_TABLES = (
    "rows.csv",
    "samples.csv",
    "samples-methods.csv",
    "samples-probes.csv",
    "samples-corruptions.csv",
    "manifest.json",
    "x_adv.npy",
)
SHAPES = (3, 32, 32)


def call(*words: Any) -> str:
    """What a command prints; InputError where it refuses its input."""
    result = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200", "TERM": "dumb"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert not controls(result.output), f"steers a terminal: {controls(result.output)[:5]!r}"
    if result.exit_code == 2:
        raise InputError(result.stderr[-1500:])
    assert result.exit_code in (0, 1), result.output
    return result.output


@cache
def mixed_run(seed: int) -> dict[str, bytes]:
    """The files of a finished run of every kind of stage, with the attacked images, on a data set that a report can read again."""
    with tempfile.TemporaryDirectory() as place, chdir(place):
        net = build_network("mlp,width=4,depth=1", classes=10, shape=SHAPES)
        save_checkpoint(
            Path("net.pt"), net, {**META, "model": {**META["model"], "classes": 10, "shape": list(SHAPES)}, "data": {"name": "shapes"}}
        )
        Path("mine.txt").write_text("fgsm\npgd,steps=2\nfog\nsaliency\nrandom-noise\n")
        words = "eval net.pt --suite mine.txt --eps 0.05 --data shapes --n 12 --out run --save --seed"
        call(*words.split(), seed)
        return {path.name: path.read_bytes() for path in Path("run").iterdir() if path.name in KEPT_TABLES}


def make_mixed_runs(folder: Path) -> None:
    for seed, name in enumerate(("base", "new")):
        (folder / name).mkdir()
        for file, content in mixed_run(seed).items():
            (folder / name / file).write_bytes(content)


def make_nights(folder: Path) -> None:
    make_mixed_runs(folder)
    (folder / "broken").mkdir()
    make_state(folder / "broken")


def read_mixed_comparison(folder: Path) -> None:
    files = {name: folder / f"out.{name}" for name in ("markdown", "junit", "json", "latex")}
    options = [word for name, path in files.items() for word in (f"--{name}", path)]
    call("compare", folder / "base", folder / "new", *options, "--out", folder / "out")
    check_markdown(files["markdown"].read_text())
    check_junit(files["junit"].read_bytes())
    check_latex(files["latex"].read_text())
    json.loads(files["json"].read_text(), parse_constant=refuse_constant)


def refuse_constant(word: str) -> None:
    """No JSON that we write holds NaN or Infinity."""
    raise AssertionError(f"{word} is no JSON")


def read_reports(folder: Path, *options: Any) -> None:
    """The page and the tables of all runs below a folder; what is refused is left out and named."""
    page, latex, markdown, table = (folder / f"out.{end}" for end in ("html", "tex", "md", "csv"))
    call("report", folder, *options, "--out", page, "--latex", latex, "--markdown", markdown, "--csv", table)
    check_page(page.read_text())
    check_latex(latex.read_text())
    check_markdown(markdown.read_text())


def read_one_report(folder: Path) -> None:
    call("report", folder / "new", "--base", folder / "base", "--out", folder / "out.html")
    check_page((folder / "out.html").read_text())


def read_list(folder: Path) -> None:
    call("list", "runs", folder)
    json.loads(call("list", "runs", folder, "--json"))


class RunBeginsError(Exception):
    """The run would begin now."""


@cache
def repeatable_run() -> dict[str, bytes]:
    """A run with the files that it needs."""
    with tempfile.TemporaryDirectory() as place, chdir(place):
        make_checkpoint(Path())
        np.savez("set.npz", x_test=pixels(), y_test=attacked_images()[1].numpy(), classes=np.array(NAMES))
        call("eval", "net.pt", "--suite", "smoke", "--eps", "0.02", "--data", "npz:set.npz", "--out", "run")
        return {name: Path(name).read_bytes() for name in ("net.pt", "net.json", "set.npz", "run/manifest.json", "run/rows.csv")}


def make_run_to_repeat(folder: Path) -> None:
    (folder / "run").mkdir()
    for name, content in repeatable_run().items():
        (folder / name).write_bytes(content)


def read_run_to_repeat(folder: Path) -> None:
    """All that `rerun` does before the run itself begins."""
    with chdir(folder), mock.patch.object(robench.cli.rerun, "invoke", side_effect=RunBeginsError):
        try:
            call("rerun", "run", "--out", "again")
        except RunBeginsError:
            return
    raise AssertionError("the run was not begun, and not refused")


def make_published_rows(folder: Path) -> None:
    (folder / "model_info" / "cifar10" / "Linf").mkdir(parents=True)
    row = {
        "name": "A net", "authors": "B. Author", "dataset": "cifar10", "clean_acc": "90.1", "autoattack_acc": "60.2", "eps": "8/255",
        "link": "https://x", "venue": "ICLR 2020", "architecture": "resnet18", "external": "59.1", "unreliable": False,
    }  # fmt: skip
    (folder / "model_info" / "cifar10" / "Linf" / "A2020.json").write_text(json.dumps(row))


def make_published_beside_a_run(folder: Path) -> None:
    make_published_rows(folder)
    make_results(folder)


def read_published_beside_a_run(folder: Path) -> None:
    published_rows(folder / "model_info")
    read_reports_of(folder / "base", folder)


def read_reports_of(run: Path, folder: Path) -> None:
    call("report", run, "--published", folder / "model_info", "--out", folder / "out.html", "--markdown", folder / "out.md")
    check_page((folder / "out.html").read_text())
    check_markdown((folder / "out.md").read_text())


RUN_FILES = ("rows.csv", "samples.csv", "manifest.json")
RUN_READERS: dict[str, Reader] = {
    "mixed runs in compare": Reader(make_mixed_runs, read_mixed_comparison),
    "mixed runs in a report": Reader(make_nights, read_reports),
    "mixed run and its base in a report": Reader(make_mixed_runs, read_one_report),
    "list of runs": Reader(make_nights, read_list),
    "run to repeat": Reader(make_run_to_repeat, read_run_to_repeat, ("net.pt", "net.json", "set.npz", "rows.csv")),
    "published rows": Reader(make_published_beside_a_run, read_published_beside_a_run, RUN_FILES),
}
READERS: dict[str, Reader] = FILE_READERS | RUN_READERS
