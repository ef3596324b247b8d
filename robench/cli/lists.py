"""`robench list`: the names that the other commands understand."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import Annotated, Any

import typer

from robench.cli.console import print_table
from robench.core.recipes import lookup, setting_text

LIST_KINDS = (
    "recipes", "attacks", "probes", "suites", "methods", "scores", "data", "models", "corruptions", "objectives", "regularizers", "presets",
)  # fmt: skip
OTHER_SPELLINGS = {"regularisers": "regularizers"}
RECIPE_FORMS = (  # how what is asked for is written
    ("NAME", "what has this name: see 'robench list attacks', probes, corruptions, methods, scores, suites", "pgd-20"),
    ("NAME,option=value,...", "with options, whole numbers, numbers, fractions, true or false", "pgd,steps=50,step_size=2/255"),
    ("NAME=WEIGHT", "a regulariser with its weight", "jacobian=0.01,warmup=0.25"),
    ("NAME,severity=S", "a corruption at one severity, 1 to 5; else at all five, and at 3 where its images go on", "fog,severity=3"),
    ("RECIPE on RECIPE", "the first on the images that the second (attack, probe, corruption) makes", "pgd-20 on fog,severity=3"),
    ("file.py:function", "your own: docs/index.md has a page for each kind. The file is run", "mine.py:momentum,steps=8"),
    (
        "KIND:file.py:function", "the same with its kind, attack, probe, corruption, method or score, where its arguments do not tell",
        "probe:mine.py:flip",
    ),
    ("transfer:MODEL", "an attack with points made on another model", "transfer:OTHER.pt"),
    ("SUITE or FILE.txt", "in --suite: several at once; a file has one recipe a line, and what follows # is a comment", "full"),
)  # fmt: skip

# in place of a docstring's first line, which speaks of shapes and formulas to who reads the code
SUMMARIES = {
    "saliency": "The gradient of the class's logit by the pixels, signed (Simonyan et al. 2013, 1312.6034).",
    "input-x-gradient": "The image times the gradient.",
    "integrated-gradients": "The gradient averaged on the way from a baseline to the image, times their difference: it adds up.",
    "smoothgrad": "The mean gradient under normal noise on the image.",
    "smoothgrad-sq": "The mean square of the gradient under normal noise on the image.",
    "vargrad": "The variance of the gradient under normal noise on the image.",
    "gradient-shap": "Expected gradients: integrated gradients at random places of the way, averaged over draws.",
    "deeplift": "DeepLift: differences to a baseline, handed back layer by layer; they add up.",
    "guided-backprop": "The gradient, its negative entries cut at every ReLU on the way back.",
    "grad-cam": "Grad-CAM: the activations of one layer, weighted by their gradients, brought to the size of the image.",
    "guided-grad-cam": "Guided backpropagation times Grad-CAM (Selvaraju et al. 2017, 1610.02391).",
    "occlusion": "How far the logit falls when a sliding window hides a place (Zeiler & Fergus 2014, 1311.2901).",
    "feature-ablation": "How far the logit falls when one block alone is hidden.",
    "shapley-sampling": "Shapley values of the blocks, by random orders (Castro et al. 2009; Strumbelj & Kononenko 2010).",
    "kernel-shap": "Shapley values of the blocks, by weighted least squares (Lundberg & Lee 2017, 1705.07874).",
    "scores gini": "The Gini index of a map's sizes: 0 is even, near 1 is one pixel alone.",
    "regional-gini": "The Gini index over sums in square blocks, all channels together.",
    "regional-gini-positive": "The Gini index over the positive parts of the signed sums in square blocks.",
    "entropy": "The Shannon entropy of a map's sizes as shares of their sum: log n is even, 0 is one pixel alone.",
    "top-mass": "The part of the sum of sizes that the largest ones carry.",
    "top-mass-1": "The part that the largest 1 % carry.",
    "top-mass-5": "The part that the largest 5 % carry.",
    "alignment": "The cosine of the angle between image and map.",
    "pointing-game": "Whether the largest pixel of the map lies on the object; the mean is the score.",
    "mass-in-mask": "The part of the sum of sizes that lies on the object.",
    "mass-gain": "mass-in-mask over the object's share of the image: 1 is what an even map gets.",
    "completeness": "By how much the map's sum misses the rise of the logit, as a part of that rise: 0 is complete.",
    "infidelity": "How far the map is from foretelling what noise does to the logit: 0 foretells it.",
    "max-sensitivity": "The largest change of the map under small changes of the image, as a part of its length: 0 is steady.",
    "deletion": "The area under the class's probability while pixels go: low if the first to go mattered.",
    "insertion": "The area under the class's probability while pixels come: high if the first to come mattered.",
    "randomisation": "The rank correlation of the map with that of the same model under random weights.",
    "mlp-wide": "The MLP with 3 hidden layers of 1024 units.",
    "mlp": "2 hidden layers of 200 units; 784-200-200-10 has 199,210 parameters.",
    "resnet8": "The CIFAR ResNet of depth 8 (He et al. 2016, 1512.03385).",
    "resnet20": "The CIFAR ResNet of depth 20 (He et al. 2016, 1512.03385).",
    "wrn-28-10": "The wide residual network of depth 28 and width 10 (Zagoruyko & Komodakis 2016, 1605.07146).",
    "wrn-34-10": "The wide residual network of depth 34 and width 10 (Zagoruyko & Komodakis 2016, 1605.07146).",
    "shot_noise": "Images in which each subpixel counts photons, fewer with the severity.",
    "frost": "Images under a sheet of ice: a part of a frost photo, or of a drawn sheet, at a place that each image draws.",
    "saturate": "Images with another saturation: pale at severities 1 and 2, gaudy from 3 on.",
}
FUNCTION_TABLES = {
    "attacks": ("robench.attacks", "ATTACKS"),
    "probes": ("robench.probes", "PROBES"),
    "methods": ("robench.explainers", "EXPLAINERS"),
    "scores": ("robench.scores", "SCORES"),
    "models": ("robench.models", "ARCHITECTURES"),
    "corruptions": ("robench.corruptions", "CORRUPTIONS"),
    "objectives": ("robench.objectives", "OBJECTIVES"),
    "regularizers": ("robench.objectives", "REGULARIZERS"),
}


def list_command(
    what: Annotated[str, typer.Argument(metavar="|".join(LIST_KINDS), help="What to list.")],
) -> None:
    """Lists what the other commands understand by name, with the options of each."""
    what = OTHER_SPELLINGS.get(what, what)
    lookup(what, dict.fromkeys(LIST_KINDS), "list")
    lines = [(name, "\n".join(filter(None, (text, options)))) for name, text, options in list_entries(what)]
    print_table(what, ("name", "what it is, and its options with their defaults"), lines, word_columns=2, whole=True)


def list_entries(what: str) -> list[tuple[str, str, str]]:
    """Names of one kind, each with a line that says what it is, and its options with their defaults."""
    if what == "recipes":
        return [(form, text, f"for example {example}") for form, text, example in RECIPE_FORMS]
    if what == "suites":
        from robench.evaluation.suites import SUITE_SUMMARIES, SUITES, SUITES_L1

        usual = [(name, SUITE_SUMMARIES[name], " + ".join(attacks)) for name, attacks in SUITES.items()]
        return usual + [(f"{name} in l1", "what it is where the norm is l1", " + ".join(attacks)) for name, attacks in SUITES_L1.items()]
    if what == "presets":
        from robench.training.presets import PRESET_DESCRIPTIONS as SETTINGS
        from robench.training.presets import PRESETS

        return [(name, text, PRESETS[name]["arch"]) for name, text in SETTINGS.items()]
    if what == "data":
        from robench.data import DATASET_SUMMARIES as SETS

        return [(name, text, "") for name, text in SETS.items()]
    table = function_table(what)
    summaries = {name: SUMMARIES.get(f"{what} {name}") or SUMMARIES.get(name) or function_summary(name, table) for name in table}
    return [(name, summaries[name], options_text(setting_text(function))) for name, function in table.items()]


def function_table(what: str) -> Mapping[str, Callable[..., Any]]:
    """The dict of functions of one kind."""
    module, name = FUNCTION_TABLES[what]
    return getattr(import_module(module), name)  # type: ignore[no-any-return]


def function_summary(name: str, table: Mapping[str, Callable[..., Any]]) -> str:
    """What a function is: a setting of another name of the table, or the first line of its docstring without the shapes."""
    function = table[name]
    inner = function.func if isinstance(function, partial) else function
    general = next((other for other, candidate in table.items() if candidate is inner and other != name), None)
    if general is not None and isinstance(function, partial):
        settings = [f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in function.keywords.items()]
        return f"{general} with {', '.join(settings)}."
    return re.sub(r",? \(B[^)]*\)( float64)?", "", (inspect.getdoc(inner) or "").partition("\n")[0])


def options_text(options: str) -> str:
    """The options with four digits of long numbers."""
    return re.sub(r"\d+\.\d{6,}", lambda found: f"{float(found[0]):.4g}", options)
