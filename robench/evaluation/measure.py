"""The one measuring function, `measure_models`: any stages, on one or several models, with a state on the disk if wanted; all others
call it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from robench.core.errors import InputError
from robench.core.files import file_stem
from robench.core.folders import Destination, refuse_beside_results
from robench.core.inputs import (
    PathLike,
    Suite,
    as_device,
    as_number,
    as_path,
    as_seed,
    as_suite_list,
    as_whole_number,
)
from robench.core.journal import Adds
from robench.core.rows import blank_row
from robench.core.threat import Threat, refuse_too_large_eps
from robench.data import Images
from robench.evaluation.planning import IS_PLANNING, PlannedCostsError
from robench.evaluation.plans import RunRequest, few_classes_notes, no_map_path, stages_of
from robench.results.corruption_errors import Reference
from robench.results.measurement import Measurement, measurement_of_run
from robench.runs.execution import execute
from robench.runs.loop import Taker
from robench.runs.planned_costs import costs_of_run
from robench.runs.pools import pool_of_images
from robench.runs.types import Pool, RunOptions, Stage, Subject


def suite_measurement(
    model: nn.Module, images: Images, suite: Suite, threat: Threat, *, seed: int = 0, device: str = "cpu", folder: Path | None = None
) -> Measurement:
    """The measurement of one model without a name by a suite or recipes, as a training asks for it.

    Args:
        model: maps pixels (B, C, H, W) in [0, 1] to logits (B, K).
        images: the images with labels.
        suite: the name of a suite, or recipes.
        threat: of the attacks.
        seed: of all draws.
        device: where the model runs.
        folder: takes the state, from which a later call goes on; None keeps none.
    """
    how = RunOptions(seed=seed, device=device, folder=folder, resume=True)
    return measure_models([Subject(model, blank_row())], images, RunRequest(as_suite_list(suite), [threat]), how)


def as_run_options(
    *, seed: int = 0, batch_size: int = 250, device: str = "cpu", until: float | None = None, budget: float | None = None,
    folder: PathLike | Destination | None = None, **more: Any,
) -> RunOptions:  # fmt: skip
    """How a run is made, from what a caller hands over. Raises InputError for what is none of it."""
    until = None if until is None else as_number(until, "until")
    if until is not None and not 0 < until < 0.5:
        raise InputError(f"the half-width to stop at must lie between 0 and 0.5, not {until:g}")
    budget = None if budget is None else as_number(budget, "budget")
    if budget is not None and not 0 < budget < math.inf:
        raise InputError(f"the budget must be a number of seconds above 0, not {budget:g}")
    place = folder if isinstance(folder, Destination) else as_path(folder, "folder")
    return RunOptions(
        seed=as_seed(seed), batch_size=as_whole_number(batch_size, "batch_size", 1), device=as_device(device), until=until, budget=budget,
        folder=place, **more,
    )  # fmt: skip


def measure_models(
    subjects: Sequence[Subject], images: Images, request: RunRequest, how: RunOptions, *, save: Path | None = None,
    pngs: Path | None = None, stages: Sequence[Stage] | None = None, words: Mapping[str, Any] | None = None, adds: Adds | None = None,
    taker: Taker | None = None, reference: Subject | Reference | None = None, pool: Pool | None = None,
) -> Measurement:  # fmt: skip
    """The measurement of models by all that is asked for.

    Args:
        subjects: the models.
        images: the images with labels.
        request: what is measured.
        how: the options of the run.
        save: the .npy file that takes adversarial images; several models or threats have their names behind its own.
        pngs: the folder that takes their pictures, named likewise.
        stages: the stages of the run, where the caller has made them.
        words: as in `runs.execution.execute`.
        adds: as in `runs.execution.execute`.
        taker: as in `runs.execution.execute`.
        reference: by whose errors under corruptions others are divided: a model that is measured along, or known errors.
        pool: the images where they are not those of `images` themselves.

    Raises:
        InputError: for what cannot be measured, or does not go together.
    """
    for threat in request.threats:
        refuse_too_large_eps(threat, images.shape)
    refuse_repeated_threats(request.threats)
    refuse_beside_results(save, pngs, how.folder.work if isinstance(how.folder, Destination) else None)
    stages = stages_of(request, images, how) if stages is None else stages
    attacks = [stage for stage in stages if stage.kind == "attack" and stage.is_reported]
    if how.until is not None and not attacks:
        raise InputError("--until stops at the interval of an accuracy after attacks, and none is asked for: leave it out")
    if (how.until is not None or how.budget is not None) and (save or how.made_folder or request.save_maps is not no_map_path):
        raise InputError("a run that stops early does not see all images: do not save them, or give --n instead")
    if (how.until is not None or how.budget is not None) and taker is not None:
        raise InputError("a run that stops early does not make all images: do not export them, or give --n instead")
    if pngs is not None and images.shape[0] not in (1, 3):
        raise InputError(f"images of {images.shape[0]} channels are no PNG files: leave --save-png out, --save writes numbers")
    every = [*subjects, *([reference] if isinstance(reference, Subject) else [])]
    refuse_one_file_name([subject.name for subject in every])
    cascades = list(dict.fromkeys(stage.about["cascade"] for stage in attacks))
    files = {
        (subject.name, cascade): file_suffix(subject.name if len(every) > 1 else "", cascade if len(cascades) > 1 else "")
        for subject in every for cascade in cascades
    }  # fmt: skip
    if IS_PLANNING.get():
        shown = pool or pool_of_images(images)
        raise PlannedCostsError(costs_of_run(every, shown, stages, how, saved=bool(save) * len(files), pictures=bool(pngs) * len(files)))
    run = execute(
        every, pool or pool_of_images(images), stages, how, images=images.identity if how.folder and pool is None else "", data=images.name,
        save={key: save.with_name(f"{save.stem}{name}{save.suffix}") for key, name in files.items()} if save else {},
        pngs={key: pngs / f"x_adv{name}-" for key, name in files.items()} if pngs else {},
        words={"threats": [[threat.norm, threat.eps] for threat in request.threats] if attacks else [], "saved": saved_images_word(save,
        pngs),
               **({"made": True} if how.made_folder else {}),
               "budget": how.budget is not None, **(words or {})},
        adds=adds, taker=taker,
    )  # fmt: skip
    for case in run.cases:
        notes = few_classes_notes([(stage.about["recipe"], stage.about["attack"]) for stage in attacks], case.classes, how.engine)
        case.notes += [note for note in notes if note not in case.notes]
    return measurement_of_run(run, request.verdict_suite(), run.cases[-1] if isinstance(reference, Subject) else reference)


def file_suffix(subject: str, cascade: str) -> str:
    """What the name of a file of adversarial images has behind it, for one of several models and cascades."""
    return "".join(f"-{file_stem(word)}" for word in (subject, cascade) if word)


def refuse_one_file_name(names: Sequence[str]) -> None:
    """Raises InputError where two names become one in the names of files."""
    for place, name in enumerate(names):
        twin = next((other for other in names[:place] if other != name and file_stem(other) == file_stem(name)), None)
        if twin is not None:
            raise InputError(f"the models {twin!r} and {name!r} have one name in the names of files, {file_stem(name)}: rename one of them")


def refuse_repeated_threats(threats: Sequence[Threat]) -> None:
    """Raises InputError where a threat is given twice, or none is."""
    if not threats:
        raise InputError("no threat is given: name one, such as linf:8/255")
    if len(set(threats)) < len(threats):
        raise InputError("a threat is given twice: give each one once")


def saved_images_word(save: Path | None, pngs: Path | None) -> bool | str:
    """What a run writes of its images, as its state tells it."""
    return save is not None if pngs is None else "x_adv and png" if save else "png"
