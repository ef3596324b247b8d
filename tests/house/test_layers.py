"""The architecture: imports point one way, between packages and inside them, and each third-party package has one home.

That there are few packages and no circle of imports is an aim of `test_measures.py`.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import robench

ROOT = Path(robench.__file__).parent
# Each package imports only from those above it in this list, and each module only from those before it in its package; what several
# modules share comes first. The `__init__` of a package is the last of its modules, unless it is named.
LAYERS = {
    "core": "errors clusters interrupts code_permission facts moved synonyms corruption_names perturbation_names rows fronts draws"
    " processes cells pictures files recipes preprocessing contained_images decoding decoder model_calls memory checks saved_results"
    " inputs journal schedules statistics seed_statistics paired threat folders types",
    "attacks": "facts active losses targets kernels reference fgsm noise pgd square fab eight_bits apgd transfer malt",
    "corruptions": "severities blur digital noise weather warp frost spatter",
    "explainers": "facts baselines nonlinearities forward_survey hooks gradients masking rebuilt_models grad_cam",
    "probes": "noise occlusion",
    "scores": "facts inequality geometry localisation faithfulness stability randomisation",
    "objectives": "facts terms gradients standard awp sagr igd input_l2 emr jacobian gradalign vat weight_norms gini cross_lipschitz"
    " double_backprop adversarial fgsm free trades mart alp arr cure tulip mail hat __init__ second_order",
    "data": "imagenet label_maps class_names own_code image_trees label_files imagenet_layouts layouts index_files decoding_workers"
    " stored_pixels images made_images catalogues dataset_items dataset_pixels own_loaders rand_augment augment mixing npz_arrays"
    " torchvision_sets"
    " shapes files own_sets source_options"
    " hub_snapshots parquet_features parquet_sets shard_files shards __init__ released_sets corrupted_trees corrupted_sets"
    " videos perturbed_sequences export",
    "models": "layers model_files answers exported named_models cached_files weights stand_ins synced_batch_norm checkpoint contract"
    " foreign heads forgotten_normalisation resnet small architectures identity torchvision_weights timm_weights"
    " huggingface_images huggingface robustbench_zoo loading initial_weights preprocessing output_choice",
    "runs": "store ledger types diagnostics own_functions images pools stages stages.clean stages.earlier_run stages.probe"
    " stages.corruption stages.sequence stages.method stages.attack timings pass_counts loop blocks costs cases resuming"
    " execution case_times planned_costs",
    "results": "files image_identities corruption_estimates corruption_errors cascade probes corruptions sequences scores score_rows"
    " classes saved_runs image_values named_rows columns column_values table_differences seed_means compare gates measurement",
    "report": "metric_meanings leaderboard manifest tables class_tables plain_text robustbench_files run_list paper_tables"
    " paper_formats table_files page captions figures figures.style figures.classes figures.attacks figures.saliency"
    " figures.corruptions figures.training pictures charts board_parts headline nights run_parts folder result"
    " trackers.records trackers.event_files trackers.mlflow_runs trackers.running trackers trackers.measured comparison"
    " comparison_files night_verdicts image_sources changed_images base_parts overview reporting cost_tables",
    "evaluation": "planning suites run_words named_files repeated_calls repeated_runs recipe_kinds methods corruption_sources"
    " sequence_sources plans measure arguments api",
    "training": "presets preset_sources guards types frozen_parameters batch_parts extra_images equal_average steps states epochs"
    " settings checkpoint_files teachers beginnings preparation training_costs timed_trainings final_measurement clean_before tracked"
    " train seed_groups grids sweeps cluster_sweeps planned_trainings training_cost_tables",
    "cli": "calls console options loading jobs measure sweeping compare corrupt evaluate lists report train rerun",
}
OPEN = ("__init__", "__main__")  # the public names, handed out lazily, and `python -m robench`
HOMES = {
    "torchvision": ("models", "data"),
    "timm": ("models",),
    "captum": ("explainers",),
    "pyarrow": ("core/contained_images.py", "data"),
    "huggingface_hub": ("models", "data"),
    "braceexpand": ("data",),
    "sklearn": (),
    "safetensors": ("models",),
    "PIL": ("core/pictures.py", "core/decoding.py", "data", "corruptions", "models/huggingface_images.py"),
    "pandas": ("results/files.py", "results/image_values.py", "report"),
    "matplotlib": ("report/figures",),
    "jinja2": ("report/page.py",),
    "typer": ("cli",),
    "rich": ("cli",),
    "tensorboard": ("report/trackers/event_files.py",),
    "mlflow": ("report/trackers/mlflow_runs.py",),
    "pyautoattack": ("attacks/reference.py",),
    "robustbench": ("models",),
    "transformers": ("models",),
    "av": ("data/videos.py",),
    "ray": ("core/clusters.py",),
}


def module_of(path: Path) -> str:
    """The dotted name of a module below robench."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in ROOT.rglob("*.py")}


def imports(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it, also inside functions and for types only."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def own_imports(name: str) -> set[str]:
    """The modules of robench that one of them imports."""
    found = set()
    for other in imports(MODULES[name]):
        words = other.removeprefix("robench.")
        if other.startswith("robench."):
            found.add(words if words in MODULES else words.rpartition(".")[0] or "__init__")
    return found - {name}


def test_every_package_has_a_layer_and_imports_only_from_its_own_or_a_lower_one():
    order = list(LAYERS)
    for name in MODULES.keys() - {*OPEN}:
        package = name.split(".")[0]
        assert package in order, f"robench/{package} has no layer: add it to LAYERS in {Path(__file__).name}"
        for other in own_imports(name):
            assert order.index(other.split(".")[0]) <= order.index(package), f"{name} imports {other} from a higher layer"


@pytest.mark.parametrize("package", LAYERS)
def test_inside_a_package_modules_import_only_from_those_before_them(package):
    order = LAYERS[package].split()
    order += [] if "__init__" in order else ["__init__"]
    inside = {name: name.partition(".")[2] or "__init__" for name in MODULES if name.split(".")[0] == package}
    assert sorted(inside.values()) == sorted(order), "each module has its place in the order, and the order no other"
    for name, own in inside.items():
        for other in own_imports(name) & inside.keys():
            assert order.index(inside[other]) < order.index(own), f"{name} imports {other}, which stands behind it"


def test_every_folder_with_modules_is_a_package_that_says_what_it_holds():
    for folder in {path.parent for path in ROOT.rglob("*.py")}:
        home = folder / "__init__.py"
        assert home.exists(), f"{folder.relative_to(ROOT)} has no __init__.py"
        assert ast.get_docstring(ast.parse(home.read_text())), f"{home.relative_to(ROOT)} has no docstring"


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
    import robench.evaluation.measure
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
