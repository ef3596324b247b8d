"""The state of a long run: a file to which one line is added for each finished piece of work, safe against kill -9.

The first line says what the run is; a run that goes on with the file must be the same one. A line counts once its end is on the
disk: a torn last line is cut off, and its piece of work is done again. Each line ends with a checksum of itself and of the lines
before it, so that a file of which a byte was changed, or a line is missing, is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from robench.core.errors import InputError, OtherRunError, UnfinishedError
from robench.core.files import FULL, json_value, refuse_link, sync_folder, write_whole

NAME = "state"
LONGEST_EXCERPT = 60  # letters
Adds = Callable[[Mapping[str, Any], Mapping[str, Any]], bool]
CHECK = "check"  # the key of a line's checksum
FINISHED_LINE = {"finished": True}


class Journal:
    """The finished pieces of work of one run, in memory and, with a folder, in `state-RANK.jsonl` there.

    Attributes:
        header: what identifies the run, as plain JSON values.
        path: the file of this process, None without a folder.
        entries: the pieces that were taken up from an earlier run.
        added: the pieces of this process.
    """

    def __init__(
        self, folder: Path | None, header: Mapping[str, Any], *, rank: int = 0, resume: bool = False, adds: Adds | None = None
    ) -> None:
        """Opens the journal and takes up what the files of an earlier run in the folder hold, of however many processes it was.

        Args:
            folder: where the files lie; None keeps nothing on the disk.
            header: what identifies the run, as plain JSON values; entries of a file with another header are not taken up.
            rank: number of this process among those that share the work; each writes a file of its own.
            resume: whether entries of an unfinished run are taken up.
            adds: adds(theirs, ours) -> whether our header only adds to that of an earlier run, whose entries are then taken up.

        Raises:
            InputError: where the files belong to another run, or are damaged, and where there is an unfinished run but `resume` is false.
        """
        self.header: dict[str, Any] = json.loads(json.dumps(header))
        self.path = None if folder is None else folder / f"{NAME}-{rank}.jsonl"
        self._adds = adds
        self.entries: list[dict[str, Any]] = []
        self.added: list[dict[str, Any]] = []
        if folder is None or self.path is None:
            return
        if not resume and has_finished(folder):
            remove_state_files(folder)
        refuse_link(self.path)
        self._last, self._finished = "", False  # the checksum of the last line of the own file, and whether it is the mark of the end
        self._file: os.stat_result | None = None  # of the own file, since its last line was written
        for path in state_files(folder):
            self._take(path, resume)
        _cut_torn_line(self.path)
        if not self._last:
            self._write(self.header)

    def append(self, entry: Mapping[str, Any]) -> None:
        """Adds a finished piece of work; it is on the disk when this returns.

        Args:
            entry: plain JSON values.

        Raises:
            UnfinishedError: where it cannot be written; the file then stays as it was.
        """
        plain: dict[str, Any] = json.loads(json.dumps(entry))
        self.added.append(plain)
        if self.path is not None:
            self._write(plain)

    def finish(self) -> None:
        """Marks the run as finished: its files may be overwritten from now on."""
        if self.path is not None and not self._finished:
            self._write(FINISHED_LINE)

    @contextmanager
    def remove_if_refused(self) -> Iterator[None]:
        """Removes the file where the work inside is refused, unless it began in an earlier run; where it could not go on it stays."""
        try:
            yield
        except UnfinishedError:
            raise
        except InputError:
            if self.path is not None and not self.entries:
                self.path.unlink(missing_ok=True)
            raise

    def _take(self, path: Path, resume: bool) -> None:
        """Takes up the entries of a file."""
        lines = complete_lines(path)
        if not lines:
            return
        header, *entries = checked_entries(lines, path)
        if not resume:
            raise InputError(f"{path.parent} holds the state of a run: pass --resume to go on with it, or choose another folder")
        if header != self.header and self._adds is not None and self._adds(header, self.header):
            write_whole({path: sealed_lines([self.header, *entries])})
            lines = complete_lines(path)
        elif header != self.header:
            key, words = header_difference(header, self.header)
            raise OtherRunError(f"{path.parent} holds the state of another run: {words}", key)
        self.entries += [entry for entry in entries if entry != FINISHED_LINE]
        if path == self.path:
            self._last, self._finished = json.loads(lines[-1])[CHECK], entries[-1:] == [FINISHED_LINE]

    def _write(self, entry: Mapping[str, Any]) -> None:
        """Writes one line through to the disk; UnfinishedError where that cannot be, with the file as it was."""
        assert self.path is not None
        line, check = sealed_line(entry, self._last)
        if self._file is not None:
            refuse_other_file(self.path, self._file)
        try:
            with self.path.open("ab", buffering=0) as file:  # a buffer would be written once more as the file is closed
                self._file = os.fstat(file.fileno())
                before, rest = file.tell(), memoryview(line)
                try:
                    while rest:
                        rest = rest[file.write(rest) :]
                    os.fsync(file.fileno())
                except OSError:
                    file.truncate(before)
                    raise
        except OSError as error:
            way = "; make room, and go on" if error.errno in FULL else "; what is finished is kept: go on"
            way = f"{way} with the same words and --resume" if error.errno in FULL or self._last else ""
            raise UnfinishedError(f"cannot write {self.path}: {error.strerror or error}{way}") from error
        if not self._last:
            sync_folder(self.path.parent)  # which has the name of the file only now
        self._last, self._finished = check, entry == FINISHED_LINE


def refuse_other_file(path: Path, before: os.stat_result) -> None:
    """Raises UnfinishedError where a path no longer leads to the file of the state: where its folder was moved, removed or replaced."""
    with suppress(OSError):
        if os.path.samestat(path.stat(), before):
            return
    why = "was moved, removed or replaced while the run was under way"
    raise UnfinishedError(f"{path} {why}: put its folder back, where it still is, and go on with the same words and --resume")


def sealed_line(entry: Mapping[str, Any], last: str) -> tuple[bytes, str]:
    """The line of an entry, which ends with a checksum of it and of the last line's checksum; and that checksum."""
    body = json.dumps(entry, separators=(",", ":")).encode()[:-1]
    check = hashlib.sha256(last.encode() + body).hexdigest()[:16]
    return body + f'{"," if entry else ""}"{CHECK}":"{check}"}}\n'.encode(), check


def sealed_lines(entries: Iterable[Mapping[str, Any]]) -> bytes:
    """The lines of a file with these entries."""
    last, lines = "", []
    for entry in entries:
        line, last = sealed_line(entry, last)
        lines.append(line)
    return b"".join(lines)


def checked_entries(lines: Iterable[bytes], path: Path) -> list[dict[str, Any]]:
    """The entries of the lines of a state file, the header first.

    Args:
        lines: from `complete_lines`.
        path: the file, for the sentence.

    Raises:
        InputError: where one is not as it was written.
    """
    last, entries = "", []
    for line in lines:
        try:
            entry = json_value(line)
            check = entry.pop(CHECK)
            same = sealed_line(entry, last)[0] == line + b"\n"
        except (ValueError, AttributeError, KeyError, TypeError):
            same = False
        if not same:
            raise InputError(f"{path} is damaged, or of another version of robench: remove it, or choose another folder")
        last = check
        entries.append(entry)
    return entries


def has_finished(folder: Path) -> bool:
    """Whether the run whose state lies in a folder came to its end.

    Args:
        folder: the folder of the state files.
    """
    sign = json.dumps(FINISHED_LINE, separators=(",", ":")).encode()[:-1]
    return any(line.startswith(sign) for path in state_files(folder) for line in complete_lines(path))


def state_files(folder: Path) -> list[Path]:
    """The state files in a folder, of all processes, in the order of their names.

    Args:
        folder: the folder of the state.
    """
    return sorted(folder.glob(f"{NAME}-*.jsonl"))


def has_begun(folder: Path | None) -> bool:
    """Whether the state files in a folder hold finished work.

    Args:
        folder: the folder of the state; False for None.
    """
    return folder is not None and any(len(complete_lines(path)) > 1 for path in state_files(folder))


def remove_state_files(folder: Path) -> None:
    """Removes the state files in a folder."""
    for path in state_files(folder):
        path.unlink()


def complete_lines(path: Path) -> list[bytes]:
    """The lines of a file whose end was written.

    Args:
        path: the file.

    Raises:
        InputError: where it cannot be read.
    """
    try:
        return path.read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None


def _cut_torn_line(path: Path) -> None:
    """Cuts off a last line that has no end."""
    if path.exists():
        data = path.read_bytes()
        if not data.endswith(b"\n"):
            with path.open("r+b") as file:
                file.truncate(data.rfind(b"\n") + 1)


def header_difference(theirs: object, ours: Mapping[str, Any]) -> tuple[str, str]:
    """The first thing in which two runs differ, its key and in words.

    Args:
        theirs: the header of the earlier run, whatever was read.
        ours: the header of this run.
    """
    if not isinstance(theirs, dict):
        return "", "its first line does not say which"
    keys: Iterable[str] = [*ours, *theirs]
    key = next(key for key in keys if theirs.get(key) != ours.get(key))
    a, b, of = differing_excerpts(json.dumps(theirs.get(key)), json.dumps(ours.get(key)))
    return key, f"its {key} is {a}, here it is {b}{of}"


def differing_excerpts(one: str, other: str) -> tuple[str, str, str]:
    """Two texts in at most LONGEST_EXCERPT letters each, from shortly before their first difference, and a remark if both are digests."""
    if all(re.fullmatch("['\"]?[0-9a-f]{64}['\"]?", text) for text in (one, other)):
        one, other = (text.strip("'\"")[:12] for text in (one, other))
        return f"{one}...", f"{other}...", " (digests: the content is another)"
    same = next((place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    start = max(0, same - LONGEST_EXCERPT // 3) if max(len(one), len(other)) > LONGEST_EXCERPT else 0
    end = start + LONGEST_EXCERPT - 6
    a, b = (
        f"{'...' * (start > 0)}{text[start:end]}..." if len(text) > end + 6 else "..." * (start > 0) + text[start:] for text in (one, other)
    )
    return a, b, ""
