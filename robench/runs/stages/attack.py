"""An attack at a radius, on the images that stand: its points are brought inside the threat, and the model, asked again, has the last word.

Attacks make cascades, one for each norm and each kind of images: what falls is not attacked again at the same radius or a larger one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from robench.attacks import attack_for_classes
from robench.attacks.eight_bits import eight_bit_points, rounded_labels
from robench.attacks.losses import margin
from robench.core.draws import Draws
from robench.core.errors import InputError
from robench.core.files import write_whole
from robench.core.model_calls import padded_logits
from robench.core.recipes import Recipe, options_of, setting_text
from robench.core.threat import Threat, per_sample
from robench.core.types import AttackResult
from robench.data.files import png_bytes
from robench.models.stand_ins import arithmetic
from robench.runs.images import EXAMPLES_KEPT, image_json
from robench.runs.ledger import Ledger
from robench.runs.own_functions import is_own, keep_weights, refuse_found
from robench.runs.store import write_array_rows
from robench.runs.types import Case, Chunk, Outcome, ReadyStage, Stage

Attack = Callable[..., AttackResult]
TRANSFER = "transfer:"
TRIAL_OPTIONS = ("steps", "queries", "rounds")  # options of attacks that are 1 where one is only tried out


def attack_stage(
    recipe: Recipe, attack: Attack, threat: Threat, how: str, *, clean: Stage, source: Stage | None = None, before: Sequence[Stage] = (),
    reported: bool = True,
) -> Stage:  # fmt: skip
    """One attack at one radius.

    Args:
        recipe: the attack.
        attack: the function that the recipe names.
        threat: norm and radius.
        how: words on the engine and the precision, for the rows.
        clean: the clean pass.
        source: the stage whose images are attacked; None for the clean ones.
        before: the attacks of the same cascade that run earlier.
        reported: False where the attack only gives its images to later stages.
    """
    name = recipe.label if source is None else f"{recipe.label} on {source.name}"
    about = {
        "attack": attack,
        "before": tuple(before),
        "clean": clean,
        "how": how,
        "recipe": recipe,
        "cascade": cascade_key(threat.norm, source),
    }

    def begin(case: Case) -> ReadyStage:
        fit = attack_for_classes(attack, case.classes)
        run = trial_attack(fit) if case.is_trial and not is_own_or_transfer(stage) else fit
        return ReadyStage(partial(attack_outcomes, case, stage, run), f"{setting_text(fit)} {how}".strip())

    def on(ledger: Ledger, subject: str) -> Tensor:
        standing = ledger.was_tried(subject, stage)
        for earlier in before:
            standing = standing & ~ledger.column(subject, earlier, "fell", False)
        return standing

    unproven = is_own(recipe.name) or recipe.name.startswith(TRANSFER) or bool(recipe.options)  # ours by their defaults fit every model
    stage = Stage(
        "attack",
        name,
        begin,
        on,
        source,
        threat=threat,
        keeps_images=not reported,
        needs_trial=unproven and "reference" not in how,
        is_reported=reported,
        about=about,
        words=[setting_text(attack), how],
    )
    return stage


def cascade_key(norm: str, source: Stage | None) -> str:
    """What tells a cascade from the others of a run."""
    return norm if source is None else f"{norm} on {source.name}"


def trial_attack(attack: Attack) -> Attack:
    """The attack with one step: enough to see that its options and the model go together. The user's own stay as they are."""
    options = options_of(attack)
    return partial(attack, **{name: 1 for name in TRIAL_OPTIONS if isinstance(options.get(name), int)})


def attack_outcomes(case: Case, stage: Stage, attack: Attack, chunk: Chunk) -> Iterator[Outcome]:
    """Yields what became of images that stand."""
    assert stage.threat is not None
    x, y, label = chunk.x, chunk.y, attack_label(stage)
    draws = Draws(case.seed, chunk.ids.to(case.device), label)
    with warnings.catch_warnings(record=True) as caught, arithmetic(case.precision):
        warnings.simplefilter("always", RuntimeWarning)
        with keep_weights(label, case.exact_model, case.model):
            result = attack(case.model, x.clone(), y.clone().to(case.device), stage.threat, draws)
    if not isinstance(result, AttackResult):
        raise InputError(
            f"attack {label!r} returned {type(result).__name__} and no robench.core.types.AttackResult: see docs/adding-an-attack.md"
        )
    refuse_found(result, len(x), label)
    x_adv, outside = points_inside(x, result.x_adv.detach().to(x), stage.threat, label)
    with torch.no_grad():
        logits = padded_logits(case.exact_model, x_adv).cpu()
    finite = torch.isfinite(logits).all(1)
    fell = (logits.argmax(1) != y) & finite
    points, fallen = x_adv.cpu(), fell.to(x.device)
    rounded, names = eight_bit_verdicts(case, stage, x[fallen], x_adv[fallen], chunk.places[fell])
    file = case.saved.get(stage.about["cascade"]) if stage.is_reported else None
    write_array_rows(file, chunk.places[fell], points[fell])
    claimed = result.fooled.cpu().bool()
    reached = claimed & fell if is_own(label) else claimed  # ours are believed in what they were after
    columns: dict[str, Any] = {
        "fell": fell, "pred": logits.argmax(1), "margin": -margin(logits, y), "distance": stage.threat.distance(x, x_adv).cpu(),
        "step": result.step.cpu(), "forwards": result.forwards.cpu() + 1, "backwards": result.backwards.cpu(),
        "reached": reached, "rounded": scattered_values(fell, rounded, -1), "png": scattered_values(fell, names, ""),
    }  # fmt: skip
    example_rows = fell.nonzero().flatten()[: max(0, EXAMPLES_KEPT - kept_example_count(case, stage))]
    sentences = [str(warning.message) for warning in caught]
    if is_own(label) and bool((claimed & ~fell).any()):
        sentences.append(f"what {label} says of fooled images is not what the model says when asked again: the model's word counts")
    extras = {
        "nonfinite": int((result.nonfinite.cpu().bool() | ~finite).sum()), "outside": list(outside),
        "warnings": list(dict.fromkeys(sentences)),
        "images": {str(int(chunk.places[i])): image_json(points[i]) for i in example_rows},
        **({"before": {str(int(chunk.places[i])): image_json(x[i].cpu()) for i in example_rows}} if stage.source else {}),
    }  # fmt: skip
    columns["rounded"] = torch.tensor(columns["rounded"], dtype=torch.int64)
    yield Outcome(columns, x=torch.where(per_sample(fallen, x), x_adv, x) if stage.keeps_images else None, extras=extras)


def attack_label(stage: Stage) -> str:
    """The name of the attack itself, without the images that it is run on: the key of its draws."""
    return stage.name if stage.source is None else stage.name.removesuffix(f" on {stage.source.name}")


def scattered_values(mask: Tensor, values: Sequence[Any], blank: Any) -> list[Any]:
    """The values at the places of the mask, (M,), and `blank` elsewhere."""
    remaining = iter(values)
    return [next(remaining) if here else blank for here in mask.tolist()]


def kept_example_count(case: Case, stage: Stage) -> int:
    """How many adversarial images of the cascade are kept already."""
    return sum(len(images) for one in (*stage.about["before"], stage) for images in case.ledger.extras(case.name, one, "images"))


def eight_bit_verdicts(case: Case, stage: Stage, x: Tensor, x_adv: Tensor, places: Tensor) -> tuple[list[int], list[str]]:
    """The labels of fallen images, (M, C, H, W), in 8 bits, and the names of the pictures that were written of them: uncounted passes."""
    assert stage.threat is not None
    y, prefix = case.pool.y[places].to(case.device), case.pngs.get(stage.about["cascade"]) if stage.is_reported else None
    labels = rounded_labels(case.exact_model, x, x_adv, y, stage.threat).tolist()
    if prefix is None or not len(places):
        return labels, [""] * len(places)
    ids = case.pool.ids[places]
    points, fooled = eight_bit_points(case.exact_model, x, x_adv, y, stage.threat, Draws(case.seed, ids.to(case.device), "png"))
    names = [f"{prefix.name}{sample}.png" if fools else "none" for sample, fools in zip(ids.tolist(), fooled.tolist(), strict=True)]
    pictures = {prefix.parent / name: png_bytes(point) for name, point in zip(names, points.cpu(), strict=True) if name != "none"}
    if pictures:
        write_whole(pictures)
    return labels, names


def points_inside(x: Tensor, x_adv: Tensor, threat: Threat, label: str) -> tuple[Tensor, tuple[int, float, int]]:
    """The points, (B, C, H, W), all moved to the nearest in the threat; how many lay outside, how far, and how many are not finite."""
    if x_adv.shape != x.shape:
        raise InputError(f"attack {label!r} returned points of shape {tuple(x_adv.shape)} for images of shape {tuple(x.shape)}")
    out = ~threat.contains(x, x_adv)
    if not bool(out.any()):
        return x_adv, (0, 0.0, 0)
    far = threat.distance(x, x_adv)
    bad = ~far.isfinite()
    return torch.where(per_sample(out, x), threat.project(x, x_adv.nan_to_num()), x_adv), (
        int(out.sum()),
        float(torch.where(bad, 0.0, far).max()),
        int(bad.sum()),
    )


def is_own_or_transfer(stage: Stage) -> bool:
    """Whether only running an attack tells that it cannot be used: the user's own, and one from a surrogate."""
    return is_own(stage.name) or stage.name.startswith(TRANSFER)
