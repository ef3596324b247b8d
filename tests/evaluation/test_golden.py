"""Golden tables: what every measuring command wrote when this file was made, cell by cell, so that no number moves unseen.

A case of CASES is a call of the command line on twelve images of `shapes`; tests/golden/ holds its tables. The columns that a golden table
has are compared; new columns are no failure, new, missing or reordered lines are.

* Names, settings, labels, verdicts, counts, passes and shares are exact; EXACT allows only for the digits that a golden table leaves out.
* Other floats may differ by CLOSE of their size, or by FLOOR: logits are of size 10 here and float32 carries seven digits, so that a
  difference of logits that is about 0 moves by some 1e-5 when another processor adds in another order.
* Lines of seconds are left out, and what LEFT_OUT names.

Write tables anew with

    ROBENCH_GOLDEN=write python -m pytest tests/evaluation/test_golden.py -k CASE

and only for a change of numbers that CHANGELOG.md explains. A case must also pass with other kernels, whose last bits are others
(`ATEN_CPU_CAPABILITY=default`, `DNNL_MAX_CPU_ISA=SSE41`, `OMP_NUM_THREADS=2`), and, unless it is among WHOLE, in batches of another size
(`ROBENCH_GOLDEN_BATCH=5`); choose radii and images so that it does.
"""

import csv
import math
import os
import re
from dataclasses import asdict

import pytest
from commandline import read, robench
from places import GOLDEN

from robench import evaluate, load_model
from robench.data import load_images

GELU, RELU = "../../checkpoints/shapes-cnn-pgd-at.pt", "twins.py:relu"
EXACT, CLOSE, FLOOR = 1e-9, 1e-4, 2e-5
METHODS = """saliency,input-x-gradient,integrated-gradients,smoothgrad,smoothgrad-sq,vargrad,gradient-shap,
deeplift,guided-backprop,grad-cam,guided-grad-cam,occlusion,feature-ablation"""
CASES = {
    "eval-smoke": "eval GELU --suite smoke --eps 4/255,8/255,12/255 --save",
    "eval-smoke-relu": "eval RELU --suite smoke --eps 4/255,8/255,12/255",
    "eval-smoke-chosen": "eval RELU --suite smoke --split train --indices chosen.txt --n all",
    "eval-smoke-drawn": "eval GELU --suite smoke --shuffle --seed 3 --save --save-png",
    "eval-pgd-l2": "eval GELU --suite pgd --norm l2 --eps 1.5",
    "eval-fast": "eval GELU --suite fast --eps 16/255",
    "eval-autoattack-linf": "eval GELU --suite autoattack --eps 16/255",
    "eval-autoattack-l2": "eval GELU --suite autoattack --norm l2 --eps 1.4",
    "eval-autoattack-l1": "eval GELU --suite autoattack --norm l1 --eps 8",
    "eval-autoattack-plus": "eval GELU --suite autoattack-plus --eps 20/255",
    "eval-autoattack-rand": "eval GELU --suite autoattack-rand --eps 20/255",
    "eval-reference": "eval GELU --suite autoattack --engine reference --eps 20/255",
    "eval-until": "eval GELU --suite smoke --until 0.25 --n 60 --batch-size 10",
    "eval-inductive": "eval GELU --suite inductive",
    "attack-fgsm": "attack GELU --attack fgsm",
    "attack-fgsm-l1": "attack GELU --attack fgsm --norm l1 --eps 4,8",
    "attack-noise": "attack GELU --attack noise,tries=20 --eps 32/255",
    "attack-pgd": "attack GELU --attack pgd,steps=15,restarts=2,step_size=0.01,loss=dlr --eps 8/255,12/255",
    "attack-pgd-second": "attack GELU --attack pgd,steps=20,target=second --eps 8/255,12/255",
    "attack-pgd-margin-l2": "attack RELU --attack pgd-margin --norm l2 --eps 0.5,1",
    "attack-apgd-dlr": "attack GELU --attack apgd-dlr,steps=20 --eps 8/255,12/255",
    "attack-apgd-least-likely": "attack GELU --attack apgd,steps=20,target=least-likely --eps 16/255,24/255",
    "attack-apgd-t-l1": "attack GELU --attack apgd-t,steps=10,targets=3 --norm l1 --eps 6,10",
    "attack-malt": "attack GELU --attack malt,rounds=2 --eps 12/255",
    "attack-fab": "attack GELU --attack fab,steps=20,restarts=2 --eps 8/255,12/255",
    "attack-fab-t-l2": "attack GELU --attack fab-t,steps=10,targets=4 --norm l2 --eps 0.8",
    "attack-square": "attack GELU --attack square,queries=300 --eps 12/255,16/255",
    "attack-square-l2": "attack RELU --attack square,queries=300 --norm l2 --eps 1.6",
    "attack-square-l1": "attack RELU --attack square,queries=300 --norm l1 --eps 16",
    "attack-fab-t-l1": "attack RELU --attack fab-t,steps=10,targets=3 --norm l1 --eps 6",
    "attack-transfer": "attack GELU --attack transfer:RELU --eps 12/255",
    "attack-apgd-eot": "attack GELU --attack apgd,steps=5,eot=3,restarts=2 --eps 12/255",
    "attack-reference-l2": "attack GELU --attack apgd-ce,steps=20 --engine reference --norm l2 --eps 1",
    "attack-bf16": "attack GELU --attack pgd-10 --precision bf16 --eps 12/255",
    "attack-own": "attack GELU --attack twins.py:faded --eps 16/255,32/255,64/255",
    "attack-own-probe": "attack GELU RELU --attack twins.py:shifted",
    "attack-inductive-noise": "attack GELU RELU --attack inductive-noise,t=0.01,saliency=integrated-gradients",
    "attack-random-noise-2": "attack GELU --attack random-noise-2,t=0.1,noise=uniform",
    "attack-inductive-occlusion": "attack GELU RELU --attack inductive-occlusion,count=3,radius=1",
    "attack-random-occlusion": "attack GELU --attack random-occlusion,count=3,radius=2,colour=grey",
    "corrupt-nineteen": "corrupt GELU --corruption nineteen --reference RELU",
    "corrupt-two": "corrupt GELU RELU --corruption fog,spatter --severity 1,5 --scale imagenet --seed 3",
    "corrupt-exported": "corrupt RELU --corruption noise,jpeg_compression --export corrupt-exported-set",
    "corrupt-from": "corrupt GELU --from corrupt-exported-set",
    "saliency-own": "saliency GELU --method twins.py:bright,saliency --score twins.py:largest,gini --against twins.py:faded --eps 64/255",
    "saliency-scores": "saliency GELU RELU --method saliency --score all",
    "saliency-methods": "saliency RELU --method METHODS --score gini,alignment,mass-gain",
    "saliency-trust": "saliency GELU --method integrated-gradients,steps=10 --score trust --target predicted --channels sum",
    "saliency-kernel-shap": "saliency GELU --method kernel-shap,samples=60 --block 16 --score gini",
    "saliency-blocks": "saliency GELU --method shapley-sampling,samples=3 --block 8 --score maps",
    "saliency-against": "saliency GELU RELU --score gini --against pgd-20 --against random-noise,t=0.1 --against fog,severity=3",
    "saliency-inductive": "saliency GELU --inductive",
    "saliency-join": "saliency GELU --join eval-smoke --score gini,regional-gini-positive,gini-positive",
    "compare": "compare eval-smoke eval-smoke-relu",
}
NEEDS = {"saliency-join": ["eval-smoke"], "corrupt-from": ["corrupt-exported"], "compare": ["eval-smoke", "eval-smoke-relu"]}
WHOLE = {"eval-until", "eval-reference", "attack-reference-l2", "compare"}  # the authors' engine draws by place in the batch
# columns and metrics that a golden table leaves out: which point bf16 finds, and when, hangs on how a processor and a batch round to 8 bits
LEFT_OUT = {
    "compare": ("base_run",),  # a path
    "attack-bf16": {"step", "adv_margin", "distance", "forwards", "backwards"},
}
pytestmark = pytest.mark.usefixtures("no_pictures")
SLOW = {"eval-autoattack-l1", "eval-autoattack-l2", "eval-autoattack-plus", "eval-autoattack-rand"}  # up to 40 s each
MADE_OF_COUNTS = re.compile(r"(^|_)(accuracy|rate|error|error_19|shared|share|ce|mce|forwards|backwards|maps)(/|$)|^flag")
FLOORS = {"adv_margin": 5e-4}  # hundreds of steps carry last bits on into a margin that is all but 0: 1.3e-4 was seen, of logits of size 5
CLOSE_COLUMNS = ("clean_margin", "adv_margin", "distance")


def run(case, folder):
    """The folder with the tables of a case, and those of the cases that it needs, each run once."""
    out = folder / case
    if out.exists():
        return out
    for needed in NEEDS.get(case, []):
        run(needed, folder)
    words = CASES[case].replace("GELU", GELU).replace("RELU", RELU).replace("METHODS", METHODS.replace("\n", "")).split()
    command, *words = words[0], *[str(folder / word) if word in CASES or word.endswith("-set") else word for word in words[1:]]
    if command != "compare" and "--from" not in words:
        words += ["--data", "shapes", *([] if "--n" in words else ["--n", 12])]
    if case not in WHOLE:
        words += ["--batch-size", os.environ.get("ROBENCH_GOLDEN_BATCH", "250")]
    robench(command, *words, "--out", out, "--quiet", code=0)
    return out


def tables(case, out):
    """The tables of a case without what its golden ones leave out."""
    names, without = ("compare",) if case == "compare" else ("rows", "samples"), {"seconds", *LEFT_OUT.get(case, ())}
    read_back = {name: [line for line in read(out / f"{name}.csv") if line.get("metric") not in without] for name in names}
    return {
        name: [{column: line[column] for column in line if column not in without} for line in lines] for name, lines in read_back.items()
    }


def tolerance(column, line):
    """What a number of this column may differ by, of its size and at least."""
    if column in ("value", "low", "high"):
        close = "metric" in line and not MADE_OF_COUNTS.search(line["metric"])
    else:
        close = column in CLOSE_COLUMNS or (
            "method" in line and not re.fullmatch(r"-?\d+", line[column])
        )  # scores have columns of their own
    return (CLOSE, FLOORS.get(column, FLOOR)) if close else (EXACT, 0.0)


def agree(golden, found, relative, absolute):
    """Whether two cells say the same, as words or as numbers."""
    if golden == found:
        return True
    try:
        return math.isclose(float(golden), float(found), rel_tol=relative, abs_tol=absolute)
    except ValueError:
        return False


def differences(golden, found):
    """The cells that do not agree, one sentence each."""
    if len(golden) != len(found):
        yield f"{len(golden)} lines, now {len(found)}"
    for place, (was, now) in enumerate(zip(golden, found, strict=False), start=2):
        for column, cell in was.items():
            if not agree(cell, now.get(column, "no such column"), *tolerance(column, was)):
                names = " ".join(was.get(word, "") for word in ("checkpoint", "probe", "method", "setting", "sample", "metric")).strip()
                yield f"line {place} ({names}), {column}: {cell}, now {now.get(column, 'no such column')}"


def shortened(column, line):
    """A cell as a golden table keeps it: no more digits than are compared."""
    try:
        number = float(line[column])
    except ValueError:
        return line[column]
    if "." not in line[column]:
        return line[column]
    return f"{number:.6g}" if tolerance(column, line)[0] == CLOSE else f"{number:.10g}"


def write(path, lines):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, lines[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows({column: shortened(column, line) for column in line} for line in lines)


def in_words(row):
    """A row or sample as a CSV holds it."""
    return {name: "" if str(cell) == "nan" else str(cell) for name, cell in asdict(row).items()}


def matches(case, found):
    """Compares tables with the golden ones, or writes these anew."""
    for name, lines in found.items():
        path = GOLDEN / f"{case}.{name}.csv"
        if os.environ.get("ROBENCH_GOLDEN") == "write":
            write(path, lines)
        wrong = list(differences(read(path), lines))
        assert not wrong, f"{path.name}: {len(wrong)} cells differ\n" + "\n".join(wrong[:20])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("golden")


@pytest.mark.parametrize("case", [pytest.param(case, marks=[pytest.mark.slow] if case in SLOW else []) for case in CASES])
def test_the_tables_are_the_golden_ones(case, folder, monkeypatch):
    monkeypatch.chdir(GOLDEN)  # so that the rows name the models without a path of this machine
    matches(case, tables(case, run(case, folder)))


def test_a_suite_of_ones_own_in_python_gives_the_golden_rows():
    images = load_images("shapes", "test", n=12)
    suite = ["fgsm", "pgd,steps=5,loss=margin", "square,queries=50"]
    found = evaluate(
        load_model(GOLDEN / GELU), images.x.numpy(), images.y.tolist(), ids=images.ids + 100, suite=suite, eps=["8/255", 12 / 255], seed=2
    )
    lines = {
        "rows": [in_words(row) for row in found.rows if row.metric != "seconds"],
        "samples": [in_words(sample) for sample in found.samples],
    }
    matches("python-evaluate", lines)
