"""Subjects made ready for a run: examined, given a stand-in for attacks and files for their images, diagnosed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from robench.core.draws import Draws
from robench.core.errors import InputError
from robench.core.inputs import FunctionModule
from robench.core.model_calls import padded_logits
from robench.core.processes import World
from robench.core.recipes import options_of
from robench.core.rows import Check
from robench.data.stored_pixels import readable_rows
from robench.models.contract import CONTRACT_IMAGES, examine_model
from robench.models.stand_ins import cheaper_stand_in
from robench.runs import diagnostics
from robench.runs.ledger import Ledger
from robench.runs.loop import Run
from robench.runs.stages.clean import check_logits
from robench.runs.store import Store, make_array_file
from robench.runs.types import Case, Pool, RunOptions, Subject, pixels_for_model

DIAGNOSED_IMAGES = 64  # how many images the diagnostics look at


def refuse_function(model: nn.Module, folder: Path | None) -> None:
    """Raises InputError where a run that can go on would have to know a plain function again."""
    if isinstance(model, FunctionModule) and folder is not None:
        raise InputError(
            "a run that keeps its state in a folder must know its model by its weights: hand over a torch.nn.Module, or no folder"
        )


def distinct_names(subjects: Sequence[Subject]) -> list[str]:
    """A name for each subject: its own, with its number behind it where one before it has the same."""
    names = [subject.name for subject in subjects]
    return [name if name not in names[:place] else f"{name}#{place}" for place, name in enumerate(names)]


def case_of(subject: Subject, name: str, pool: Pool, ledger: Ledger, how: RunOptions, modes: Sequence[bool]) -> Case:
    """A subject made ready: looked at on a few images, and behind what it needs to keep the contract.

    Args:
        subject: the model as the user gave it.
        name: its name in the ledger.
        pool: the images.
        ledger: takes the outcomes.
        how: the options of the run.
        modes: whether each mode-dependent module came in training mode.

    Raises:
        InputError: where the model does not give usable logits.
    """
    few = pixels_for_model(first_pixels(pool, max(CONTRACT_IMAGES, 8))[1], subject.model, how.device)
    finding = examine_model(subject.model, few[:CONTRACT_IMAGES])
    trained = diagnostics.train_mode_check(modes, finding.checks)
    logits = uncounted_logits(finding.model, few)
    check_logits(logits, pool.y)
    notes = [
        *(["the model is a plain function: what it calls runs in the mode that it is in, so put that into eval mode yourself"]
          if isinstance(subject.model, FunctionModule) else []),
        *finding.notes,
    ]  # fmt: skip
    return Case(
        subject, name, finding.model, finding.model, few, logits.shape[1], pool, ledger, Store.nowhere(World()), how.seed, how.batch_size,
        how.device, how.precision, checks=[trained, *finding.checks], notes=notes,
    )  # fmt: skip


def equip_case(run: Run, case: Case, how: RunOptions, save: Mapping[tuple[str, str], Path], pngs: Mapping[tuple[str, str], Path]) -> None:
    """Gives a case its store and files and, where attacks run, its stand-in and diagnostics.

    Args:
        run: the run, whose store is open.
        case: the case; it is changed in place.
        how: the options of the run.
        save: (subject, cascade) -> the .npy file that takes the adversarial images.
        pngs: (subject, cascade) -> the beginning of the paths of their pictures.

    Raises:
        InputError: where a file of a run that goes on is gone.
    """
    attacks = any(stage.kind == "attack" for stage in run.stages)
    case.saves_made_images = how.made_folder is not None
    case.store, case.remembers = run.store, any(stage.kind == "method" for stage in run.stages)
    case.saved = adversarial_files(case, save, run.store, run.world)
    case.pngs = {cascade: path for (name, cascade), path in pngs.items() if name == case.name}
    if attacks:
        case.model, notes = stand_in_model(case, how)
        case.notes += notes
    if how.examine and attacks:
        case.checks += case_diagnostics(run, case)


def first_pixels(pool: Pool, count: int) -> tuple[Tensor, Tensor]:
    """The places of the first images of the pool, at most so many, and images there to look at a model with.

    They are mildly changed where those as they are are not known; those that cannot be read are passed over where they are to be left out.

    Args:
        pool: the images.
        count: how many are wanted.

    Raises:
        InputError: where there are none, or one cannot be read.
    """
    pixels = pool.pixels or pool.mild
    if pixels is None:
        raise InputError("there are no images to look at the model with")
    return readable_rows(pixels, len(pool), count, pool.skips_damaged)


def uncounted_logits(model: nn.Module, x: Tensor) -> Tensor:
    """The logits (B, K) of some images on the CPU, by an uncounted pass. Raises InputError where the model returns something else."""
    with torch.no_grad():
        logits = padded_logits(model, x)
    if logits.dim() != 2 or len(logits) != len(x):
        raise InputError(f"the model returns {tuple(logits.shape)} for {len(x)} images: expected logits (B, K)")
    return logits.cpu()


def stand_in_model(case: Case, how: RunOptions) -> tuple[nn.Module, list[str]]:
    """The stand-in that the attacks are given, and notes on it; the reference engine gets the model itself."""
    if how.engine == "reference":
        if how.precision != "fp32":
            raise InputError(f"the reference engine runs in fp32: leave --precision {how.precision} out")
        return case.exact_model, []
    if how.precision == "fp32" and not how.prepare:
        return case.exact_model, []
    x = pixels_for_model(first_pixels(case.pool, DIAGNOSED_IMAGES)[1], case.exact_model, how.device)
    normed = any(
        isinstance(module, nn.BatchNorm2d) for module in case.exact_model.modules()
    )  # a rule, not a race: the same bits in every run
    return cheaper_stand_in(
        case.exact_model, x, precision=how.precision, channels_last=normed if x.device.type == "cpu" else how.precision != "fp32"
    )


def adversarial_files(case: Case, save: Mapping[tuple[str, str], Path], store: Store, world: World) -> dict[str, Path]:
    """The files of adversarial images of a case, made anew unless the run goes on. Raises InputError if one is gone."""
    files = {cascade: path for (name, cascade), path in save.items() if name == case.name}
    for path in files.values():
        if any("stage" in entry for entry in store.journal.entries):
            store.check(path, True)
        elif world.rank == 0:
            path.unlink(missing_ok=True)
            make_array_file(path, (len(case.pool), *case.pool.shape))
    world.first_of(0)
    return files


def case_diagnostics(run: Run, case: Case) -> list[Check]:
    """The diagnostics on the first images, of the first process, from the journal where they are there already."""
    records = [entry["checks"] for entry in run.store.journal.entries if "checks" in entry and entry["subject"] == case.name]
    if not records and run.world.rank == 0:
        places, pixels = first_pixels(case.pool, DIAGNOSED_IMAGES)
        attacks = [stage for stage in run.stages if stage.kind == "attack"]
        draws = Draws(case.seed, run.pool.ids[places].to(case.device), "diagnostics")
        y = run.pool.y[places].to(case.device)
        random = any(options_of(stage.about["attack"]).get("eot", 1) > 1 for stage in attacks)
        x, threat = pixels_for_model(pixels, case.exact_model, case.device), attacks[-1].threat
        assert threat is not None
        checks = diagnostics.model_checks(case.exact_model, x, y, threat, draws, randomised_ok=random)
        records = [[[check.probe, check.name, check.value, check.raised, check.sentence] for check in checks]]
        run.store.journal.append({"checks": records[0], "subject": case.name})
    return [Check(*values) for values in run.world.first_of(records)[0]]
