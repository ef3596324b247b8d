"""A call that a manifest keeps, read as the untrusted text that it is, changed as the user wishes, and written as words again."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from robench.core.errors import InputError
from robench.core.recipes import did_you_mean

COMMANDS = ("eval", "attack", "saliency", "corrupt", "train")
MODELS = "models"
ONLY_GIVEN = (
    "trust",
    "download",
    "out",
    "resume",
    "force",
    "quiet",
    "strict",
    "plan",
    "on",
    "gpus-each",
)  # which `robench rerun` has itself, or has no use for
WRITES_ELSEWHERE = ("log", "export")  # which would write outside --out
OPTIONS = (  # what a manifest may say of a call: nothing that writes outside --out, and nothing that lets code run or be fetched
    "suite attack method score target channels block layer against join inductive norm eps threat until engine precision compile"
    " scale frost-dir save save-png corruption severity from reference data data-dir split image-size resize interpolation pixels"
    " workers skip-damaged layout class-order classes label-map outputs n shuffle indices budget seed batch-size arch activation"
    " weights mean std"
    " device threads n-train preset objective reg normalize epochs teacher optimizer lr momentum nesterov"
    " weight-decay schedule augment mixup cutmix awp awp-warmup ema label-smoothing guard held-out select measure sweep eval-n"
    " freeze seeds"
    " accumulate swa extra init new-head"
)
TAKEN = frozenset(OPTIONS.split(" "))
LONGEST_TEXT, MOST_VALUES = 4096, 10_000


def call_in_manifest(manifest: Mapping[str, Any], commands: Mapping[str, Mapping[str, Any]], where: str) -> dict[str, Any]:
    """The call under "arguments" of a manifest, checked: "command", "models", "options" and "folder".

    Args:
        manifest: the content of the manifest, of whatever origin.
        commands: the options of each command by name.
        where: what sentences call the manifest.

    Raises:
        InputError: where it says no call, or one that no command could have had.
    """
    call = manifest.get("arguments")
    if call is None:
        raise InputError(
            f"{where} does not say how the run was called: it was made in Python, or by a version of robench that did not keep it; "
            "measure again with the words that you used"
        )
    if not isinstance(call, dict) or call.get("command") not in COMMANDS or not isinstance(call.get("options"), dict):
        raise refused(where, "its arguments name no command of robench with options")
    models = call.get(MODELS)
    if not isinstance(models, list) or not all(isinstance(model, str) for model in models) or len(models) > MOST_VALUES:
        raise refused(where, "its models are no list of names")
    folder = call.get("folder")
    known = commands[call["command"]]
    checked = {key: checked_values(key, value, where) for key, value in call["options"].items() if checked_text(key, where)}
    for key in checked:
        if key not in known and key not in (*ONLY_GIVEN, *WRITES_ELSEWHERE):
            raise refused(where, f"robench {call['command']} has no option --{key}{did_you_mean(key, known)}")
    texts = [checked_text(model, where) for model in models]
    return {"command": call["command"], MODELS: texts, "options": checked, "folder": folder if isinstance(folder, str) else ""}


def refused(where: str, why: str) -> InputError:
    """The error for a manifest that is not as robench writes it.

    Args:
        where: the manifest or the part of it.
        why: what is wrong with it.
    """
    return InputError(f"{where} cannot be repeated: {why}")


def checked_text(text: str, where: str) -> str:
    """The text; InputError for one that is empty, endless, or holds characters that steer a terminal."""
    if not text.strip() or len(text) > LONGEST_TEXT:
        raise refused(where, "a name or value in its arguments is empty, or longer than any that a command line takes")
    if any(unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") for letter in text):
        raise refused(where, f"{text[:40]!a} in its arguments holds characters that cannot be seen")
    return text


def checked_values(key: str, value: Any, where: str) -> Any:
    """The value of an option: a text, a number, true or false, or a list of texts and numbers. InputError for anything else."""
    if isinstance(value, list) and len(value) <= MOST_VALUES:
        if value and not any(isinstance(one, (list, bool)) for one in value):
            return [checked_values(key, one, where) for one in value]
    elif isinstance(value, str):
        return checked_text(value, where)
    elif isinstance(value, (bool, int, float)) and abs(value) < 1e18:
        return value
    raise refused(where, f"the value of --{key} is no text, no number, and no list of these")


def set_values(sentences: Iterable[str], known: Mapping[str, Any], takes_models: bool) -> dict[str, list[str]]:
    """What the user sets: key -> values, as often as the key was given.

    Args:
        sentences: each KEY=VALUE.
        known: the options of the command by name.
        takes_models: whether the command has models, which the key "models" then names.

    Raises:
        InputError: for what is no KEY=VALUE, for an unknown key, and for one that is not set so.
    """
    keys = [*([MODELS] if takes_models else []), *(key for key in known if key not in ONLY_GIVEN)]
    given: dict[str, list[str]] = {}
    for sentence in sentences:
        key, sign, value = sentence.partition("=")
        key = key.strip().removeprefix("--").replace("_", "-")
        if not sign or not key or not value.strip():
            raise InputError(f"cannot read --set {sentence}: write --set KEY=VALUE, such as --set n=100")
        if key in ("strict",):
            raise InputError("--set strict has no use: rerun ends with 1 where the tables are not the same")
        if key in ("on", "gpus-each"):
            raise InputError(f"--set {key} has no use: rerun repeats a sweep on this machine")
        if key in ONLY_GIVEN:
            raise InputError(f"--set {key} is not how that is said: pass --{key} to rerun itself")
        if key not in keys:
            raise InputError(f"unknown key {key!r} of --set{did_you_mean(key, keys)}")
        given.setdefault(key, []).append(value.strip())
    return given


def changed_call(call: Mapping[str, Any], given: Mapping[str, Sequence[str]], known: Mapping[str, Any]) -> dict[str, Any]:
    """The call with what the user set in place of what it had; "default" takes an option out.

    Args:
        call: what `call_in_manifest` read.
        given: what `set_values` read.
        known: the options of the command by name.
    """
    models = [*given.get(MODELS, call[MODELS])]
    options = {key: value for key, value in call["options"].items() if key in TAKEN}
    for key, values in given.items():
        if key != MODELS:
            options.pop(key, None)
            options |= {} if [*values] == ["default"] else {key: set_value(key, values, known[key])}
    return {**call, MODELS: models, "options": options}


def set_value(key: str, values: Sequence[str], parameter: Any) -> Any:
    """The value of an option from the texts that were set; InputError where it has no such value."""
    if parameter.is_flag:
        if values[-1] not in ("true", "false"):
            raise InputError(f"--set {key}={values[-1]}: --{key} is a switch, which is true or false")
        return values[-1] == "true"
    if len(values) > 1 and not parameter.multiple:
        raise InputError(f"--set {key} is given {len(values)} times, and --{key} takes one value")
    return list(values) if len(values) > 1 else values[0]


def refuse_download_elsewhere(call: Mapping[str, Any], given: Mapping[str, Sequence[str]], download: bool) -> None:
    """InputError where --download would write into a folder that only the manifest names.

    Args:
        call: the options of the manifest by name.
        given: the options that the user sets, by name.
        download: whether the user allows downloads.
    """
    if download and "data-dir" in call["options"] and "data-dir" not in given:
        place = call["options"]["data-dir"]
        raise InputError(f"--download would write into {place}, which the manifest names: say so yourself, with --set data-dir={place}")


def left_out(call: Mapping[str, Any]) -> list[str]:
    """The options of a call that are not taken from a manifest."""
    return [key for key in call["options"] if key not in TAKEN]


def words_of_call(call: Mapping[str, Any], known: Mapping[str, Any], where: str) -> list[str]:
    """The words of a call for its command: each option in one word with its value, so that none can be taken for another, then the models.

    Args:
        call: checked, and changed as the user wishes.
        known: the options of the command by name.
        where: what sentences call the manifest.

    Raises:
        InputError: where a value does not fit the kind of its option.
    """
    words: list[str] = []
    for key, value in call["options"].items():
        parameter, each = known[key], value if isinstance(value, list) else [value]
        if isinstance(value, bool) != bool(parameter.is_flag):
            raise refused(where, f"--{key} {'is a switch, true or false' if parameter.is_flag else 'takes a value'}, not {value}")
        if len(each) > 1 and not parameter.multiple:
            raise refused(where, f"--{key} takes one value, not {len(each)}")
        if isinstance(value, bool):  # one that is false by default has no word for that
            words += [f"--{key}"] if value else parameter.secondary_opts
        else:
            words += [f"--{key}={one}" for one in each]
    return [*words, "--", *call[MODELS]] if call[MODELS] else words
