"""The public functions that measure: what the command line can do, from Python. `import robench` has them all.

Each takes one model, a mapping of names to models, or a list of `Subject`; the images as tensors or arrays x (N, C, H, W) with labels
y (N,), as an `Images`, or as a DataLoader or data set of (x, y); and gives a `Result`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robench.attacks import ATTACKS
from robench.core.errors import InputError
from robench.core.files import file_stem
from robench.core.folders import Destination
from robench.core.inputs import (
    Array,
    PathLike,
    Radius,
    Suite,
    as_device,
    as_list,
    as_path,
    as_seed,
    as_suite_list,
    as_tensor,
)
from robench.core.model_calls import with_gradients
from robench.core.recipes import Recipe, parse_recipe, recipe_text
from robench.core.rows import Row
from robench.core.threat import Threat
from robench.data import Images
from robench.data.export import Export
from robench.evaluation.arguments import (
    Model,
    Models,
    Pictures,
    as_labelled_images,
    as_reference,
    as_severity,
    as_subjects,
    as_threats,
    notes_of_reading,
    refuse_second,
)
from robench.evaluation.corruption_sources import (
    CorruptionSource,
    ExportTaker,
    corruption_recipes,
    only_adds,
    pool_of_source,
    released_images,
    source_from_images,
    stages_of_source,
)
from robench.evaluation.measure import as_run_options, measure_models
from robench.evaluation.methods import advance_notes, chosen_methods, chosen_scores, joined_results
from robench.evaluation.plans import RunRequest, no_map_path, refuse_unknown
from robench.evaluation.recipe_kinds import recipe_kind
from robench.evaluation.sequence_sources import (
    NO_PUBLISHED_FLIPS,
    SequenceSource,
    first_frame_images,
    pool_of_sequences,
    stages_of_sequences,
)
from robench.evaluation.suites import SUITES, expanded_recipes
from robench.report.result import Result
from robench.results.corruption_errors import Reference
from robench.runs.types import Subject, Track, untracked_chunks
from robench.scores.inequality import gini_of_sorted


def tell_nothing(notes: Sequence[str]) -> None:
    """Says nothing: the notes are in the result."""


@with_gradients
def evaluate(
    model: Models,
    x: Pictures,
    y: Array | None = None,
    *,
    suite: Suite = "autoattack",
    norm: str = "linf",
    eps: Radius | None = None,
    threats: str | Threat | Sequence[str | Threat] = (),
    scores: str | Sequence[str] = ("gini",),
    scale: str = "auto",
    photos: PathLike | None = None,
    ids: Array | None = None,
    about: Row | None = None,
    architecture: Mapping[str, Any] | None = None,
    seed: int = 0,
    batch_size: int = 250,
    device: str = "cpu",
    engine: str = "robench",
    precision: str = "fp32",
    compiled: bool = False,
    until: float | None = None,
    budget: float | None = None,
    folder: PathLike | Destination | None = None,
    resume: bool = False,
    save: PathLike | None = None,
    pngs: PathLike | None = None,
    made: PathLike | None = None,
    examine: bool = False,
    prepare: bool = False,
    download: bool = False,
    track: Track = untracked_chunks,
) -> Result:
    """Everything that a suite names, in one run: attacks on the images that still stand, probes, corruptions, saliency maps.

    In a torch.distributed process group each process takes its share of the images, and all return the whole. Inside
    torch.inference_mode() it leaves that mode, in which no attack has a gradient, and comes back to it at the end.

    Args:
        model: what is measured: a torch.nn.Module or a plain function from pixels (B, C, H, W) in [0, 1] to logits (B, K), a mapping of
            names to such models, or a list of `robench.Subject`. It is put into eval mode meanwhile, and left as it was.
        x: images (N, C, H, W), uint8 or float in [0, 1], as a tensor or an array; or a `robench.Images`, or a DataLoader or
            map-style data set of (x, y): in memory where it takes at most 256 MiB, else its images are asked for by index as they are
            needed, in as many processes as the DataLoader says (num_workers), and ids are these indices, whatever its order.
        y: labels (N,), whole numbers in [0, K); left out where x brings them.
        suite: the name of a suite ("autoattack", "fast", "inductive", "full", ...), a .txt file of recipes, or a list of recipes. A
            recipe is the sentence `[KIND:]NAME[=WEIGHT][,option=value...][ on RECIPE]`, as in "pgd,steps=50", "fog,severity=3",
            "pgd-20 on fog,severity=3" or "probe:mine.py:flip".
        norm: of the threat of attacks: "linf", "l2" or "l1".
        eps: its radius in pixels of [0, 1], such as 8 / 255 or "8/255", or several: from the smallest on, each on the images that fell
            at no smaller one. 8/255 in linf if not given; in no other norm is there a usual one.
        threats: in place of norm and eps, one or several threats such as "linf:8/255" or Threat("l2", 0.5): the suite under each, with
            rows of each, and of norm "worst" for the worst of them image by image.
        scores: of the maps of saliency methods in the suite: names of scores and of groups of them.
        scale: the severities of corruptions: "cifar", "imagenet", or "auto", by the size of the images.
        photos: a folder of frost photos for the corruption frost; without it a texture is drawn.
        ids: (N,) numbers of the images, to which random numbers belong; 0..N-1 if not given.
        about: the checkpoint, preset, data and split of the rows of one model; a `Subject` has its own.
        architecture: what tells one model apart beside its weights, modules and code, for the state in `folder`; plain values.
        seed: of all random numbers, from 0 to 2^32 - 1: the same seed gives the same verdicts, whatever the batch size.
        batch_size: how many images are measured at once, at least 1.
        device: where that happens: "cpu", "cuda", "cuda:1", "mps".
        engine: of the attacks: "robench", or "reference", the components of AutoAttack by their authors, through pyautoattack.
        precision: of the attacks' passes: "fp32", "tf32" or "bf16"; each claim is checked in fp32, so that a lower one can miss but
            not invent.
        compiled: whether the attacks' own arithmetic goes through torch.compile: seconds at the start, quicker afterwards.
        until: stop once the half-width, in (0, 0.5), of the anytime-valid interval of the last accuracy is that small.
        budget: stop between blocks of images once so many seconds are spent, over all resumes; all stages then have the same n.
        folder: keep the state of the run in this folder, which is made if need be and locked meanwhile.
        resume: go on with the state that is in `folder`.
        save: a .npy file that takes the adversarial images, (N, C, H, W) float32; the clean image where one stands.
        pngs: a folder that takes each adversarial image that fools in 8 bits, too, as x_adv-ID.png.
        made: a folder that takes the images that probes (in their first draw) and corruptions make, (N, C, H, W) float32, as
            x-NAME-LEVEL.npy, and the maps of methods as maps-MODEL-METHOD.npy; zeros where an image was not tried.
        examine: whether the diagnostics are run on the first images, before the attacks.
        prepare: whether the attacks' passes are made cheaper where that pays, as the command line does; it can move last bits.
        download: whether weights of models that attacks are transferred from may be fetched where they are missing.
        track: wraps chunks of images to show progress.

    Returns:
        A `Result`: rows, samples, flags and notes; `accuracy("pgd-20")`, `to_frame()`, `save(folder)`; a table in a notebook.

    Raises:
        InputError: one sentence, for images, labels, logits, recipes or options that cannot be used; before the first image is measured
            wherever it can be known then.

    Example:
        >>> from robench.data import load_images
        >>> images, model = load_images("shapes", "test", n=12), robench.load_model("checkpoints/shapes-cnn-pgd-at.pt")
        >>> found = robench.evaluate({"pgd-at": model}, images, suite=["fgsm", "pgd,steps=5"], eps="4/255")
        >>> found.accuracy("pgd") <= found.accuracy("fgsm") <= found.accuracy("clean")
        True
        >>> found.to_frame().query("metric == 'accuracy'")["probe"].tolist()
        ['clean', 'fgsm', 'pgd']
    """
    images = as_labelled_images(x, y, ids, about=about)
    subjects = as_subjects(model, images, about, architecture)
    recipes = as_suite_list(suite)
    folder_of = as_path(made, "made")
    request = RunRequest(
        recipes, as_threats(norm, eps, threats), scores=run_score_recipes(as_list(scores), images, recipes), scale=scale,
        photos=str(photos or ""),
        save_maps=map_paths_in(folder_of),
    )  # fmt: skip
    how = {
        "seed": seed, "batch_size": batch_size, "device": device, "engine": engine, "precision": precision, "compiled": compiled,
        "until": until, "budget": budget, "folder": folder, "resume": resume, "examine": examine, "prepare": prepare, "track": track,
        "made_folder": folder_of, "download": download,
    }  # fmt: skip
    notes = notes_of_reading(x, images)
    return result_of_run(subjects, images, request, how, notes=notes, save=as_path(save, "save"), pngs=as_path(pngs, "pngs"))


def attack(
    model: Models,
    x: Pictures,
    y: Array | None = None,
    recipe: str | Recipe = "pgd-20",
    *,
    norm: str = "linf",
    eps: Radius | None = None,
    threats: str | Threat | Sequence[str | Threat] = (),
    ids: Array | None = None,
    seed: int = 0,
    batch_size: int = 250,
    device: str = "cpu",
    engine: str = "robench",
    precision: str = "fp32",
    compiled: bool = False,
    until: float | None = None,
    budget: float | None = None,
    folder: PathLike | Destination | None = None,
    resume: bool = False,
    save: PathLike | None = None,
    pngs: PathLike | None = None,
    examine: bool = False,
    prepare: bool = False,
    download: bool = False,
    track: Track = untracked_chunks,
) -> Result:
    """One attack on the images that a model gets right.

    Args:
        model: as in `evaluate`, and so are x, y and ids.
        x: images (N, C, H, W), an `Images`, or a DataLoader or data set of (x, y).
        y: labels (N,); left out where x brings them.
        recipe: the attack: "pgd,steps=50", "apgd-ce", "transfer:OTHER.pt", "mine.py:function", "pgd-20 on fog,severity=3".
        norm: of the threat: "linf", "l2" or "l1".
        eps: its radius in pixels of [0, 1], or several.
        threats: in place of norm and eps, such as "l2:0.5".
        ids: (N,) numbers of the images, to which random numbers belong.
        seed: as in `evaluate`, and so is all that follows.
        batch_size: images at once.
        device: "cpu", "cuda", "mps".
        engine: "robench" or "reference".
        precision: "fp32", "tf32" or "bf16".
        compiled: whether the attack's arithmetic is compiled.
        until: the half-width of an interval, in (0, 0.5), at which to stop.
        budget: seconds after which to stop.
        folder: where the state of the run is kept.
        resume: go on with that state.
        save: a .npy file that takes the adversarial images.
        pngs: a folder that takes them as pictures.
        examine: whether the diagnostics are run.
        prepare: whether passes are made cheaper where that pays.
        download: whether weights of models in "transfer:MODEL" may be fetched.
        track: shows progress.

    Returns:
        A `Result`, with the adversarial points of some images in `examples`.

    Raises:
        InputError: one sentence, as in `evaluate`, and for a recipe that is no attack.

    Example:
        >>> from robench.data import load_images
        >>> images, model = load_images("shapes", "test", n=12), robench.load_model("checkpoints/shapes-cnn-pgd-at.pt")
        >>> found = robench.attack(model, images, recipe="pgd,steps=5", threats=["linf:4/255", "l2:0.3"])
        >>> [row.norm for row in found.rows if row.metric == "accuracy" and row.probe != "clean"]
        ['linf', 'l2', 'worst']
    """
    return evaluate(
        model, x, y, suite=[recipe_of_kind(recipe, "attack")], norm=norm, eps=eps, threats=threats, ids=ids, seed=seed,
        batch_size=batch_size,
        device=device, engine=engine, precision=precision, compiled=compiled, until=until, budget=budget, folder=folder, resume=resume,
        save=save, pngs=pngs, examine=examine, prepare=prepare, download=download, track=track,
    )  # fmt: skip


def probe(
    model: Models,
    x: Pictures,
    y: Array | None = None,
    recipes: Suite = "inductive",
    *,
    ids: Array | None = None,
    seed: int = 0,
    batch_size: int = 250,
    device: str = "cpu",
    budget: float | None = None,
    folder: PathLike | Destination | None = None,
    resume: bool = False,
    save: PathLike | None = None,
    track: Track = untracked_chunks,
) -> Result:
    """Error rates under probes that are no attacks in a norm ball: noise and occlusion, led by the saliency map or at random.

    Args:
        model: as in `evaluate`, and so are x, y and ids. Of several models, the images that all get right have rows of their own.
        x: images (N, C, H, W), an `Images`, or a DataLoader or data set of (x, y).
        y: labels (N,); left out where x brings them.
        recipes: the suite "inductive", a probe such as "random-noise,t=0.1,repeats=4" or "mine.py:function", or a list of them.
        ids: (N,) numbers of the images, to which random numbers belong.
        seed: as in `evaluate`, and so is all that follows.
        batch_size: images at once.
        device: "cpu", "cuda", "mps".
        budget: seconds after which to stop.
        folder: where the state of the run is kept.
        resume: go on with that state.
        save: a folder that takes the changed images of the first draws, (N, C, H, W) float32, as x-PROBE-LEVEL.npy; zeros where an
            image was not tried.
        track: shows progress.

    Returns:
        A `Result`: the rows error_rate (of the images that a model gets right) and error_rate_shared, with intervals, the share of each
        image that was changed, and passes.

    Raises:
        InputError: one sentence, as in `evaluate`, and for a recipe that is no probe.

    Example:
        >>> from robench.data import load_images
        >>> images, model = load_images("shapes", "test", n=12), robench.load_model("checkpoints/shapes-cnn-pgd-at.pt")
        >>> found = robench.probe(model, images, recipes="random-noise,t=0.2,repeats=2")
        >>> [round(row.value, 1) for row in found.rows if row.metric == "changed_share"]
        [0.2]
    """
    probes = [recipe_of_kind(recipe, "probe") for _, recipe in expanded_recipes(as_suite_list(recipes))]
    return evaluate(
        model, x, y, suite=probes, ids=ids, seed=seed, batch_size=batch_size, device=device, budget=budget, folder=folder, resume=resume,
        made=save, track=track,
    )  # fmt: skip


@with_gradients
def corrupt(
    model: Models,
    x: Pictures | CorruptionSource | SequenceSource,
    y: Array | None = None,
    corruptions: str | Sequence[str] = ("fifteen",),
    severities: int | Sequence[int] = (1, 2, 3, 4, 5),
    *,
    scale: str = "auto",
    photos: PathLike | None = None,
    reference: Model | Subject | Reference | str | None = None,
    target: Export | None = None,
    ids: Array | None = None,
    seed: int = 0,
    batch_size: int = 250,
    device: str = "cpu",
    budget: float | None = None,
    folder: PathLike | Destination | None = None,
    resume: bool = False,
    save: PathLike | None = None,
    track: Track = untracked_chunks,
) -> Result:
    """Accuracy under common corruptions (Hendrycks & Dietterich 2019, 1903.12261), and the means over them.

    Each corrupted image is made or read once and shown to every model.

    Args:
        model: as in `evaluate`, and so are x, y and ids.
        x: images (N, C, H, W), an `Images`, or a DataLoader or data set of (x, y), which are corrupted here; or the
            `CorruptionSource` of a released set (`robench.evaluation.corruption_sources.source_from_set`), which has its own
            corruptions, severities and scale; or the `SequenceSource` of sequences such as CIFAR-10-P
            (`robench.evaluation.sequence_sources.source_from_sequences`), of which flip
            probabilities are measured.
        y: labels (N,); left out where x brings them.
        corruptions: names, your own as "FILE.py:FUNCTION", and the sets "fifteen", "nineteen" and "noise".
        severities: from 1 to 5.
        scale: of the severities: "cifar", "imagenet", or "auto", by the size of the images.
        photos: a folder of frost photos; without it a texture is drawn.
        reference: by whose errors those of the models are divided, as for the mCE: a model, or "alexnet" for published errors.
        target: takes the corrupted images on the way (`robench.data.export.prepare_export`).
        ids: (N,) numbers of the images, to which random numbers belong.
        seed: as in `evaluate`, and so is all that follows.
        batch_size: images at once.
        device: "cpu", "cuda", "mps".
        budget: seconds after which to stop.
        folder: where the state of the run is kept.
        resume: go on with that state, also with further corruptions, severities or models behind those that it has.
        save: a folder that takes the corrupted images, (N, C, H, W) float32, as x-NAME-SEVERITY.npy.
        track: shows progress.

    Returns:
        A `Result`: the accuracy of each corruption at each severity, and means over the severities and over the corruptions; of sequences
        flip probabilities and distances of the five likeliest labels.

    Raises:
        InputError: one sentence, as in `evaluate`, and for an unknown corruption, severity or scale.

    Example:
        >>> from robench.data import load_images
        >>> images, model = load_images("shapes", "test", n=12), robench.load_model("checkpoints/shapes-cnn-pgd-at.pt")
        >>> found = robench.corrupt(model, images, corruptions=["fog", "contrast"], severities=[1, 5])
        >>> frame = found.to_frame().query("metric == 'accuracy' and setting.str.contains('severity=')", engine="python")
        >>> frame["probe"].tolist()
        ['fog', 'fog', 'contrast', 'contrast']
    """
    seed, device = as_seed(seed), as_device(device)
    if isinstance(x, SequenceSource):
        refuse_second(x, y=y, ids=ids, photos=photos, target=target, save=save)
        how = {"seed": seed, "device": device, "budget": budget, "folder": folder, "resume": resume, "track": track}
        return sequence_result(model, x, reference, batch_size, how)
    if isinstance(x, CorruptionSource):
        refuse_second(x, y=y, ids=ids)
        source, images, notes = x, released_images(x), list[str]()
    else:
        images = as_labelled_images(x, y, ids)
        notes = notes_of_reading(x, images)
        source = source_from_images(
            images, corruption_recipes(as_list(corruptions)), [as_severity(one) for one in as_list(severities)], scale=scale,
            photos=str(photos or ""),
            seed=seed, device=device,
        )  # fmt: skip
    subjects = as_subjects(model, images, none=target is not None)
    against = as_reference(reference, images, source)
    words = {"source": source.name, "measured": len(subjects), "reference": "" if against is None else against.name, **source.about}
    how = {
        "seed": seed, "batch_size": batch_size, "device": device, "budget": budget, "folder": folder, "resume": resume, "track": track,
        "made_folder": as_path(save, "save"),
    }  # fmt: skip
    with nullcontext() if target is None else ExportTaker(target) as taker:
        return result_of_run(
            subjects, images, RunRequest([], [Threat("linf", 8 / 255)]), how, stages=stages_of_source(source), words=words, adds=only_adds,
            taker=taker, reference=against, pool=pool_of_source(source), notes=notes,
        )  # fmt: skip


@with_gradients
def saliency(
    model: Models,
    x: Pictures,
    y: Array | None = None,
    methods: str | Recipe | Sequence[str | Recipe] = ("saliency",),
    scores: str | Sequence[str] = ("maps", "masks"),
    *,
    target: str | int = "true",
    channels: str = "none",
    masks: Array | None = None,
    against: str | Recipe | Sequence[str | Recipe] = (),
    join: PathLike | Sequence[PathLike] = (),
    inductive: bool = False,
    norm: str = "linf",
    eps: Radius | None = None,
    threats: str | Threat | Sequence[str | Threat] = (),
    ids: Array | None = None,
    seed: int = 0,
    batch_size: int = 250,
    device: str = "cpu",
    budget: float | None = None,
    folder: PathLike | Destination | None = None,
    resume: bool = False,
    save: PathLike | None = None,
    prepare: bool = False,
    download: bool = False,
    track: Track = untracked_chunks,
    tell: Callable[[Sequence[str]], None] = tell_nothing,
) -> Result:
    """The scores of saliency maps, on the images as they are and on what attacks, probes and corruptions make of them.

    Args:
        model: as in `evaluate`, and so are x, y and ids.
        x: images (N, C, H, W), an `Images`, or a DataLoader or data set of (x, y).
        y: labels (N,); left out where x brings them.
        methods: one or several: "saliency", "integrated-gradients,steps=50", "grad-cam,layer=features.3", "mine.py:function".
        scores: one or several: "gini", "randomisation", "mine.py:function", or the groups "maps", "masks" (where there are masks),
            "trust", "jacobian" and "all".
        target: whose logit is explained: "true", "predicted", or the number of a class.
        channels: "none", where every subpixel counts for itself, or "sum", "max" or "mean" of the sizes of a pixel's channels.
        masks: (N, H, W), true where the object is; an `Images` has its own.
        against: attacks, probes of one level and corruptions whose images are explained as well, and whose verdicts are set against the
            scores.
        join: results folders of earlier runs of the same models on the same images, whose verdicts are set against the scores.
        inductive: whether the probes of the suite "inductive" are run as well.
        norm: of the threat of the attacks in `against`: "linf", "l2" or "l1".
        eps: its radius in pixels of [0, 1].
        threats: in place of norm and eps, such as "l2:0.5".
        ids: (N,) numbers of the images, to which random numbers belong.
        seed: as in `evaluate`, and so is all that follows.
        batch_size: images at once.
        device: "cpu", "cuda", "mps".
        budget: seconds after which to stop.
        folder: where the state of the run is kept.
        resume: go on with that state.
        save: a folder that takes the maps of each model and method, (N, C, H, W), as maps-MODEL-METHOD.npy.
        prepare: whether the passes of attacks in `against` are made cheaper where that pays, as the command line does.
        download: whether weights of models in "transfer:MODEL" may be fetched.
        track: shows progress.
        tell: is given the notes that are known before the first image is measured, such as what a method costs.

    Returns:
        A `Result`: means, spreads and quantiles of each score with intervals, and how scores go with margins and with who falls.

    Raises:
        InputError: one sentence, as in `evaluate`, and for an unknown method or score, a target that is no class, and masks that a score
            needs and that are not there.

    Example:
        >>> from robench.data import load_images
        >>> images, model = load_images("shapes", "test", n=12), robench.load_model("checkpoints/shapes-cnn-pgd-at.pt")
        >>> found = robench.saliency(model, images, methods="saliency", scores="gini", against="pgd,steps=3")
        >>> [0 < row.value < 1 for row in found.rows if row.metric == "gini"]
        [True, True]
    """
    images = as_labelled_images(x, y, ids, masks)
    subjects, recipes = as_subjects(model, images), recipes_of_methods(as_list(methods))
    score_list, notes = chosen_scores(as_list(scores), images.masks is not None, images.shape[1:])
    maps = as_path(save, "save")
    request = RunRequest(
        [*recipes, *(["inductive"] if inductive else [])], as_threats(norm, eps, threats),
        against=[parse_recipe(one) if isinstance(one, str) else one for one in as_list(against)],
        earlier_runs=joined_results(subjects, images, [Path(one) for one in as_list(join)]), scores=score_list, target=target,
        channels=channels, save_maps=map_paths_in(maps),
    )  # fmt: skip
    how = {
        "seed": seed, "batch_size": batch_size, "device": device, "budget": budget, "folder": folder, "resume": resume, "track": track,
        "prepare": prepare, "download": download,
    }  # fmt: skip
    notes_before_run = [*notes_of_reading(x, images), *notes, *advance_notes(recipes, score_list, torch.empty(1, *images.shape))]
    tell(notes_before_run)
    return result_of_run(subjects, images, request, how, notes=notes_before_run)


def gini(maps: Array) -> Tensor:
    """The Gini index of the sizes of each map: 0 where all are equal, near 1 where one pixel carries the map alone.

    Args:
        maps: (B, ...), one map an image, of any sign and scale; a tensor or an array.

    Returns:
        (B,) float64 in [0, (n - 1) / n] for maps of n numbers; NaN for a map that is 0 everywhere or not finite somewhere.

    Raises:
        InputError: for what is no batch of maps.

    Example:
        >>> robench.gini([[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, -3.0, 0.0]]).tolist()
        [0.0, 0.75]
    """
    sizes = as_tensor(maps, "maps")
    if sizes.dim() < 2 or not sizes.shape[1:].numel() or sizes.is_complex():
        raise InputError(f"maps of shape {tuple(sizes.shape)} are none: hand over real numbers (B, ...), one map an image")
    return gini_of_sorted((sizes if sizes.is_floating_point() else sizes.double()).abs().flatten(1).sort(1).values)


def recipes_of_methods(methods: Sequence[str | Recipe]) -> list[Recipe]:
    """The recipes of methods, each once."""
    recipes = chosen_methods([one if isinstance(one, str) else recipe_text(one) for one in methods])
    return [replace(recipe_of_kind(one, "method"), kind="method") for one in recipes]


def recipe_of_kind(recipe: str | Recipe, wanted: str) -> Recipe:
    """The recipe, if it is of the kind that a function measures; of a function of the user's own, the kind that it is asked for as."""
    if isinstance(recipe, str) and recipe in SUITES and recipe not in ATTACKS:
        raise InputError(f"{recipe} is a suite and no {wanted}: robench.evaluate takes suites")
    if not isinstance(recipe, (str, Recipe)):
        raise InputError(f"a recipe is of type {type(recipe).__name__}: write a sentence, such as 'pgd,steps=50'")
    one = parse_recipe(recipe) if isinstance(recipe, str) else recipe
    if not one.kind and ".py:" in one.name and not one.name.startswith("transfer:"):
        return replace(one, kind=wanted)
    kind = recipe_kind(one)
    if kind != wanted:
        raise InputError(
            f"{one.label} is no {wanted} but {'an' if kind == 'attack' else 'a'} {kind}: robench.evaluate takes recipes of every kind"
        )
    return one


def map_paths_in(folder: Path | None) -> Callable[[str, str], Path | None]:
    """What gives the file that takes the maps of a model and a method; none without a folder."""
    return no_map_path if folder is None else lambda name, method: folder / f"maps-{file_stem(name) or 'model'}-{file_stem(method)}.npy"


def sequence_result(model: Models, source: SequenceSource, reference: Any, batch_size: int, how: Mapping[str, Any]) -> Result:
    """The measurement of models on sequences, so many at once that their frames are about `batch_size` images."""
    images = first_frame_images(source, 1)
    if isinstance(reference, (str, Reference)):
        raise InputError(NO_PUBLISHED_FLIPS)
    against = None if reference is None else as_reference(reference, images, source)
    subjects = as_subjects(model, images)
    words = {"source": source.name, "measured": len(subjects), "reference": "" if against is None else against.name, **source.about}
    return result_of_run(
        subjects, images, RunRequest([], [Threat("linf", 8 / 255)]), {**how, "batch_size": max(1, batch_size // source.longest)},
        stages=stages_of_sequences(source), words=words, adds=only_adds, reference=against, pool=pool_of_sequences(source),
    )  # fmt: skip


def result_of_run(
    subjects: Sequence[Subject], images: Images, request: RunRequest, how: Mapping[str, Any], *, notes: Sequence[str] = (), **more: Any
) -> Result:  # fmt: skip
    """The measurement with what its pictures need; `notes` were said before it began."""
    refuse_unknown(request, how.get("engine", "robench"))
    measurement = measure_models(subjects, images, request, as_run_options(**how), **more)
    parts = {part.name: getattr(measurement, part.name) for part in fields(measurement)}
    return Result(**{**parts, "notes": [*notes, *measurement.notes]}, images=images, notes_before_run=tuple(notes))


def run_score_recipes(names: Sequence[str], images: Images, chosen: Sequence[str | Recipe]) -> list[Recipe]:
    """The scores of the methods among what is asked for; none where there is no method."""
    if not any(recipe_kind(recipe) == "method" for _, recipe in expanded_recipes(chosen)):
        return []
    return chosen_scores(names, images.masks is not None, images.shape[1:])[0]
