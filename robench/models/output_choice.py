"""Which outputs of a model the label is chosen among: all of them, or those of the classes that the data has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor, nn

from robench.core.errors import InputError
from robench.core.recipes import lookup
from robench.data.class_names import LabelMapping, label_mapping_for
from robench.models.loading import LoadedModel, more_outputs_notes

OUTPUT_CHOICES = ("all", "data")


class ChosenOutputs(nn.Module):
    """A network of which some outputs are taken, in this order: the others are no label, and no attack aims at them.

    Args:
        network: from images (B, C, H, W) to logits (B, K).
        outputs: the places that are taken.

    Example:
        >>> ChosenOutputs(nn.Flatten(), [2, 0])(torch.tensor([[5.0, 6.0, 7.0]]))
        tensor([[7., 5.]])
    """

    outputs: Tensor

    def __init__(self, network: nn.Module, outputs: Sequence[int]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("outputs", torch.tensor(list(outputs)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """The logits (B, K') of the chosen outputs."""
        logits: Tensor = self.network(x)
        return logits.index_select(1, self.outputs)


def labels_of_models(
    classes: Sequence[str],
    data: str,
    sources: Sequence[str],
    loaded: Sequence[LoadedModel],
    way: str | None,
    given_order: str | None,
    label_map: Mapping[str, str] | None = None,
) -> LabelMapping:
    """Where the labels of the data belong for models that are loaded, by their names and numbers of outputs.

    Args:
        classes: the names of the data's classes, in the order of its labels.
        data: what sentences call the data.
        sources: what the user named, in order.
        loaded: these models.
        way: the user's way to find the labels, "by-name" or "as-is"; else None.
        given_order: the order of classes that the user gave; else None.
        label_map: the user's own; else None.

    Raises:
        InputError: where a model does not know a class, or where models count the classes differently.
    """
    return label_mapping_for(
        classes, data, sources, [one.meta for one in loaded], way, given_order,
        names=[one.class_names or None for one in loaded], counts=[one.outputs for one in loaded], label_map=label_map,
    )  # fmt: skip


def with_chosen_outputs(
    loaded: Sequence[LoadedModel], labels: LabelMapping, asked: str | None, authors: str, data: str
) -> tuple[list[LoadedModel], LabelMapping]:
    """The models with the outputs among which a label is chosen, and where the labels of the data belong among these.

    Args:
        loaded: the models.
        labels: where the labels belong among all outputs.
        asked: "all" or "data", what the user said; None for what the authors of the data do.
        authors: what these do, "all" or "data"; "" where they say nothing, which is all.
        data: what sentences call the data.

    Raises:
        InputError: for another word.
    """
    if asked is not None:
        lookup(asked, dict.fromkeys(OUTPUT_CHOICES), "choice of outputs")
    places = sorted(labels.outputs)
    more = [one for one in loaded if (one.outputs or 0) > len(places)]
    if (asked or authors or "all") == "all" or not more:
        hint = f"{data} has fewer classes than the model has outputs, and its authors evaluate over those of its classes alone"
        notes = [f"{hint}: --outputs data does that"] if more and authors == "data" else []
        return list(loaded), replace(labels, notes=[*labels.notes, *notes])
    rank = {place: k for k, place in enumerate(places)}
    who = "as its authors do" if asked is None else "as --outputs says"
    note = f"the label is chosen among the {len(places)} outputs of the classes of {data} alone, {who}; --outputs all takes all"
    kept = [sentence.replace(f", and all {one.outputs} outputs compete", "") for sentence in labels.notes for one in more[:1]]
    names = tuple(labels.classes[place] for place in places)
    chosen = replace(labels, outputs=[rank[place] for place in labels.outputs], classes=names, notes=[*kept, note])
    return [among_outputs(one, places) if one in more else one for one in loaded], chosen


def among_outputs(one: LoadedModel, places: Sequence[int]) -> LoadedModel:
    """The model with these outputs alone; what identifies it says so."""
    digest = sha256(",".join(map(str, places)).encode()).hexdigest()[:12]
    words: dict[str, Any] = {"chosen": len(places), "of": one.outputs, "sha256": digest}
    model = ChosenOutputs(one.model, places).to(next((p.device for p in one.model.parameters()), torch.device("cpu"))).eval()
    return replace(one, model=model, architecture={**one.architecture, "outputs": words})


def refuse_others_beside_choice(loaded: Sequence[LoadedModel], others: Sequence[str], what: str) -> None:
    """InputError where models of which some outputs are taken meet others, whose outputs stay what they are.

    Args:
        loaded: the models that are measured.
        others: further models that get the same labels.
        what: what sentences call these.
    """
    if others and any("outputs" in one.architecture for one in loaded):
        raise InputError(
            f"the {what} {others[0]} has all its outputs, and the labels count those of the data's classes: pass --outputs all"
        )


def without_count_notes(one: LoadedModel, classes: int) -> LoadedModel:
    """The model without the note that it has more outputs than the data has classes, which `label_mapping_for` tells better.

    Args:
        one: a model that was loaded for so many classes.
        classes: K of the data.
    """
    told = more_outputs_notes(one.outputs or 0, classes)
    return replace(one, notes=tuple(note for note in one.notes if note not in told))
