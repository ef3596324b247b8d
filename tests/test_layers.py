"""The architecture: imports point one way, and each third-party package has one home."""

import ast
import subprocess
import sys
from pathlib import Path

import robench

ROOT = Path(robench.__file__).parent
LAYERS = {
    "words": [
        "errors",
        "types",
        "draws",
        "threat",
        "rows",
        "recipes",
        "names",
        "inputs",
        "schedules",
        "writing",
        "statistics",
        "journal",
        "destinations",
        "memory",
        "calls",
        "options",
        "degradation",
        "fronts",
    ],
    "maths": ["attacks", "objectives", "explainers", "audits", "probes", "corruptions"],
    "things": ["models", "data", "figures"],
    "loops": [
        "suites",
        "presets",
        "shards",
        "diagnostics",
        "rounding",
        "claims",
        "runs",
        "results",
        "plans",
        "measurement",
        "evaluation",
        "auditing",
        "corrupting",
        "guards",
        "fitting",
        "settings",
        "resuming",
        "training",
        "sweeps",
    ],
    "report": ["report"],
    "shell": ["api", "cli", "__main__", "__init__"],
}
HOMES = {
    "torchvision": ("models", "data"),
    "timm": ("models",),
    "captum": ("explainers",),
    "sklearn": (),
    "safetensors": ("models",),
    "PIL": ("data", "corruptions"),
    "pandas": ("results/files.py", "figures/training.py", "report"),
    "matplotlib": ("figures",),
    "typer": ("cli",),
    "rich": ("cli",),
    "pyautoattack": ("attacks/reference.py",),
}


def imports(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def part(path: Path) -> str:
    """The module or package right under robench that a file belongs to."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def rank(name: str) -> int:
    """The height of the layer that a module belongs to; a module without a layer is an error."""
    ranks = [height for height, members in enumerate(LAYERS.values()) if name in members]
    assert ranks, f"robench/{name} has no layer: add it to LAYERS in {Path(__file__).name}"
    return ranks[0]


def test_every_module_has_a_layer_and_imports_only_from_its_own_or_a_lower_one():
    for path in ROOT.rglob("*.py"):
        own = rank(part(path))
        for name in imports(path):
            if name.startswith("robench."):
                other = name.split(".")[1]
                assert rank(other) <= own, f"{path.relative_to(ROOT)} imports {name} from a higher layer"


def test_each_third_party_package_has_one_home():
    for path in ROOT.rglob("*.py"):
        place = path.relative_to(ROOT).as_posix()
        for name in {name.split(".")[0] for name in imports(path)} & set(HOMES):
            assert place.startswith(HOMES[name]), f"{place} imports {name}, whose home is {HOMES[name]}"


def test_help_and_version_do_not_import_torch():
    code = (
        "import sys\nfrom robench.cli import app\n"
        "for words in (['--help'], ['--version'], ['train', '--help'], ['eval', '--help'], ['compare', '--help']):\n"
        "    try: app(words)\n    except SystemExit as end: assert end.code == 0\n"
        "assert 'torch' not in sys.modules and 'pandas' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_public_names_are_there_whatever_was_imported_before():
    import robench.evaluation.api
    import robench.evaluation.execution
    import robench.models
    import robench.report.comparison
    import robench.training.train

    assert robench.load_model is robench.models.load_model
    assert robench.train is robench.training.train.train
    assert robench.compare is robench.report.comparison.compare
    for name in ("attack", "corrupt", "evaluate", "gini", "probe", "saliency"):
        assert getattr(robench, name) is getattr(robench.evaluation.api, name)
    assert {*robench.__all__} == {*robench.HOMES}
    assert all(getattr(robench, name).__name__ == name for name in robench.__all__)
    assert {*robench.__all__} <= {*dir(robench)}


def test_the_package_itself_and_a_comparison_do_not_import_torch():
    code = (
        "import sys, robench\nassert 'pandas' not in sys.modules\nassert robench.compare and robench.Comparison\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
