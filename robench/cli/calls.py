"""The call of a command as plain names and values, which its manifest keeps so that `robench rerun` can make it again."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from typer.core import TyperCommand

NOT_RECORDED = (
    "trust",
    "download",
    "out",
    "resume",
    "force",
    "strict",
    "quiet",
    "log",
    "export",
    "plan",
    "on",
    "gpus-each",
)  # which no number follows from
WORDS_KEY = "robench.words"
CALL: ContextVar[dict[str, Any] | None] = ContextVar("CALL", default=None)
WRITTEN: ContextVar[Mapping[str, Any]] = ContextVar("WRITTEN", default={})  # noqa: B039 (it is never changed)


class RecordedCommand(TyperCommand):
    """A command whose manifest says how it was called."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Reads the words; keeps them as they were written, too."""
        ctx.meta[WORDS_KEY] = self.make_parser(ctx).parse_args([*args])[0]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Runs the command, with `call_in_progress` saying how it was called."""
        tokens = CALL.set(call_of_context(self.name or "", self.params, ctx.meta[WORDS_KEY], ctx.params)), WRITTEN.set(ctx.meta[WORDS_KEY])
        try:
            return super().invoke(ctx)
        finally:
            CALL.reset(tokens[0])
            WRITTEN.reset(tokens[1])


def call_in_progress() -> dict[str, Any] | None:
    """How the command that runs was called: "command", "models", "options" by their names, and "folder", from which relative paths count.

    It is None where no command of the command line runs.
    """
    return CALL.get()


def is_written(parameter: str) -> bool:
    """Whether an option of the command that runs was written by the user, and is not there by its default.

    Args:
        parameter: its name in Python, such as "seed".
    """
    return WRITTEN.get().get(parameter) is not None


def entries_with_seed(entries: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """What a call over several seeds says of one of them: a call with that seed alone, which `robench rerun` makes again.

    Args:
        entries: from `repetition_entries`.
        seed: the one.
    """
    call = entries.get("arguments")
    if call is None:
        return dict(entries)
    options = {key: value for key, value in call["options"].items() if key != "seeds"}
    return {**entries, "arguments": {**call, "options": {**options, "seed": seed}}}


def repetition_entries(with_folder: bool = True) -> dict[str, Any]:
    """What a manifest says so that the run can be made again: the call, and the sha256 of each file that it names; {} outside a command.

    Args:
        with_folder: whether the folder of the call is told; a checkpoint, which is handed on, does not.
    """
    from robench.evaluation.named_files import digests_of_files, named_files

    call = call_in_progress()
    if call is None:
        return {}
    told = {key: value for key, value in call.items() if with_folder or key != "folder"}
    return {"arguments": told, "files_read": digests_of_files(named_files(call))}


def call_of_context(command: str, parameters: list[Any], words: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A call as plain JSON values: the options that were given as they were written, and those whose default is no None or false.

    Args:
        command: its name.
        parameters: its options and arguments.
        words: what was written, by the names of the parameters.
        values: what these became, defaults included.
    """
    options: dict[str, Any] = {}
    for parameter in parameters:
        name = option_name(parameter)
        if name in ("", *NOT_RECORDED, "help"):
            continue
        value = words.get(parameter.name)
        if name == "seed" and words.get("seeds") is not None:
            continue  # which would contradict
        if value is None and type(values.get(parameter.name)) in (str, int, float):
            value = values[parameter.name]
        if value is not None:
            options[name] = plain_words(value)
    models = words.get("models")
    return {"command": command, "models": [*models] if isinstance(models, tuple) else [], "options": options, "folder": str(Path.cwd())}


def option_name(parameter: Any) -> str:
    """The name of an option without its hyphens; "" for an argument.

    Args:
        parameter: an option or argument of a command.
    """
    return max(parameter.opts, key=len).removeprefix("--") if parameter.opts[0].startswith("-") else ""


def plain_words(value: Any) -> Any:
    """What was written for an option: a list only where it was given more than once, and whole numbers as such."""
    if isinstance(value, list):
        return plain_words(value[0]) if len(value) == 1 else [*map(plain_words, value)]
    return int(value) if isinstance(value, str) and value.isdecimal() and str(int(value)) == value else value


def options_of_command(command: Any) -> dict[str, Any]:
    """The options of a command by name."""
    return {name: parameter for parameter in command.params if (name := option_name(parameter)) not in ("", "help")}
