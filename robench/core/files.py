"""Files that appear whole or not at all: written under a temporary name, through to the disk, then moved into place."""

from __future__ import annotations

import errno
import glob
import json
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from robench.core.errors import BusyError, InputError

FULL = (errno.ENOSPC, errno.EDQUOT)
NO_LINK = getattr(os, "O_NOFOLLOW", 0)  # opening fails where the path is a symbolic link
ELSEWHERE_ADVICE = "; choose another place"  # the advice where nothing is lost; a run with a state has another
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)  # what a disk that knows no locks says


def file_stem(name: str) -> str:
    """A name as a part of a file's name: all but letters, digits, "-" and "_" become "-".

    Args:
        name: such as the name of a model or a recipe.

    Example:
        >>> file_stem("my model.pt")
        'my-model-pt'
    """
    return "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in name)


def room_advice(error: OSError) -> str:
    """The advice against an error of the disk: ", or make room" where the disk is full, else "".

    Args:
        error: the error of the write.
    """
    return ", or make room" if error.errno in FULL else ""


def is_existing_file(path: Path) -> bool:
    """Whether there is a file at a path; false also where its name is longer than the system allows.

    Args:
        path: any path.
    """
    try:
        return path.is_file()
    except OSError:
        return False


def is_existing_path(path: Path) -> bool:
    """Whether there is a file or a folder at a path; false also where its name is longer than the system allows.

    Args:
        path: any path.
    """
    try:
        return path.exists()
    except OSError:
        return False


def is_plain_name(name: object) -> bool:
    """Whether a word, which a file may have brought, names a file of a folder itself: no path, no way up, no folder.

    Args:
        name: any value.
    """
    return isinstance(name, str) and name not in ("", ".", "..") and not {"/", "\\", "\0"} & {*name}


def json_value(text: str | bytes) -> Any:
    """What a JSON text holds.

    Args:
        text: of any origin.

    Raises:
        ValueError: where it is no JSON, also where it is nested more deeply, or has longer whole numbers, than Python reads.
    """
    try:
        return json.loads(text)
    except UnicodeDecodeError:
        raise ValueError("it is not text") from None
    except json.JSONDecodeError:
        raise
    except ValueError:  # of int: Python reads 4300 digits
        raise ValueError("a whole number in it is too long") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def unpacked_limit(packed: int) -> int:
    """How many bytes the packed bytes of an archive may become: 256 MiB, and a hundred times their number where that is more.

    Pictures and weights are far from that; an archive that wants more is made to fill the memory.

    Args:
        packed: the size of the file, or of the member, in bytes.
    """
    return max(2**28, 100 * packed)


def refuse_link(path: Path) -> None:
    """Refuses a symbolic link where a run is to write: it may lead out of the folder, to a file of somebody else.

    Args:
        path: of a file or folder that a run writes, which need not exist.

    Raises:
        InputError: where it is a link.
    """
    if path.is_symlink():
        raise InputError(f"{path} is a symbolic link, and a run writes nothing through one: remove it, or choose another folder")


def expanded_path(path: Path) -> Path:
    """A path with the home folder in place of ~ and ~NAME; as it is where the system knows no such user.

    Args:
        path: any path.
    """
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def prepare_folder(folder: Path) -> Path:
    """The folder, which is made if need be and known to be writable before hours are spent.

    Args:
        folder: the folder to write into.

    Raises:
        InputError: if it cannot be written into.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise InputError(f"cannot write into {folder}: {error.strerror or error}") from error


def refuse_no_file(path: Path) -> None:
    """Refuses a place of a file where something else is: a folder, a device, a pipe or a socket, also through a link.

    Args:
        path: where a file is to be written, which need not exist.

    Raises:
        InputError: where that is so.
        OSError: where the system cannot tell, as for a name that is too long.
    """
    with suppress(FileNotFoundError, NotADirectoryError):
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise InputError(f"{path} is a folder, and no place for a file: name a file")
        if not stat.S_ISREG(mode):
            raise InputError(
                f"{path} is a device, a pipe or a socket{' by a link' * path.is_symlink()}, which no file replaces: name a file"
            )


def write_whole(files: Mapping[Path, bytes]) -> list[Path]:
    """Writes each file under a temporary name in its folder, then moves all into place. No temporary file is left behind.

    A file takes the place of a regular one or of a link to one, and then what the link names stays as it is; nothing else is replaced.

    Args:
        files: path -> content; one at least. The folder of the first is made if need be.

    Returns:
        The paths.

    Raises:
        InputError: where they cannot be written, and where a folder, a device, a pipe or a socket has the name of one.
    """
    moves = {path.with_name(f".{path.name}.{os.getpid()}.tmp"): path for path in files}
    first = next(iter(files))
    try:
        for path in files:
            refuse_no_file(path)
        first.parent.mkdir(parents=True, exist_ok=True)
        for path in files:
            remove_killed_writes(path.parent, glob.escape(path.name))
        try:
            for temporary, path in moves.items():
                write_synced(temporary, files[path])
            for temporary, path in moves.items():
                temporary.replace(path)
            for folder in {path.parent for path in files}:
                sync_folder(folder)
        finally:
            for temporary in moves:
                temporary.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {first}: {error.strerror or error}{ELSEWHERE_ADVICE}") from error
    return list(files)


def remove_killed_writes(folder: Path, *patterns: str) -> None:
    """Removes what writers that were killed left behind: temporary files that bear the number of a process that is no more.

    Args:
        folder: where they wrote.
        patterns: of the names of the files that they wrote, for glob.
    """
    for path in [path for pattern in patterns for path in folder.glob(f".{pattern}.*.tmp")]:
        number = path.name.split(".")[-2]
        if number.isdigit() and not is_running(int(number)):
            path.unlink(missing_ok=True)


def is_running(process: int) -> bool:
    """Whether there is a process of this number on this machine, or might be."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def allocate_file(path: Path, size: int) -> None:
    """Reserves the disk space of a file where the system can: writing through a memory map to a full disk kills the process.

    Args:
        path: an existing file.
        size: bytes.

    Raises:
        OSError: if the disk is full.
    """
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as handle:
            try:
                os.posix_fallocate(handle.fileno(), 0, size)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENODEV):  # a file system that cannot reserve
                    raise


@contextmanager
def hold_lock(path: Path, what: Path) -> Iterator[None]:
    """Holds a lock file while a run writes to `what`; the system frees it when the process ends, however it ends.

    The file is removed at the end. Where the system or the disk knows no locks there is none.

    Args:
        path: the lock file.
        what: the file or folder that the lock protects, for the error.

    Raises:
        InputError: where another process holds the lock.
    """
    handle = open_lock(path, what)
    try:
        yield
    finally:
        if handle is not None:
            if is_same_file(handle, path):  # else the folder was moved, and another's lock may lie there
                path.unlink(missing_ok=True)  # while the lock is held, so that it is nobody else's file
            os.close(handle)


def open_lock(path: Path, what: Path) -> int | None:
    """The open and locked lock file, None where there are no locks. Raises InputError where another process holds it."""
    if os.name != "posix":
        return None
    import fcntl

    while True:
        refuse_link(path)
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | NO_LINK, 0o666)
        except OSError as error:
            raise InputError(f"cannot write into {path.parent}: {error.strerror or error}") from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(handle, 32).decode(errors="replace")
            os.close(handle)
            if error.errno in NO_LOCKS:
                return None
            raise BusyError(f"another run is writing to {what}{holder and f' (process {holder})'}: wait for its end") from None
        if is_same_file(handle, path):
            with suppress(OSError):  # the number of the process is a help, and a full disk no obstacle
                os.ftruncate(handle, 0)
                os.write(handle, str(os.getpid()).encode())
            return handle
        os.close(handle)  # its holder has removed it in between


def is_same_file(handle: int, path: Path) -> bool:
    """Whether the path still leads to the open file."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False


def sync_folder(folder: Path) -> None:
    """Writes the names in a folder through to the disk, where the system and the disk can.

    Args:
        folder: in which files were made, renamed or removed.
    """
    if os.name == "posix":
        with suppress(OSError):  # a network disk may know no such thing
            handle = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def write_synced(path: Path, data: bytes) -> None:
    """Writes `data` through to the disk, so that a move after it never leads to an empty file."""
    handle_number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | NO_LINK, 0o666)
    with os.fdopen(handle_number, "wb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())
