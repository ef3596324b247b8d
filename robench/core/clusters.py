"""Pieces of work that do not need each other, run as tasks on a Ray cluster: the trainings of a sweep, the models of a measurement.

A task is a function of ours with plain arguments. It runs in a process of its own with its CPU threads and GPUs, in the folder of the
call, and writes what it has into files that the caller reads: all machines of the cluster see the same folders. A task whose process dies
is begun again and goes on from its state.
"""

from __future__ import annotations

import importlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robench.core.errors import BusyError, InputError, UnfinishedError

ENGINE_FORM = "write ray, or ray:HOST:PORT for a cluster that runs, or ray:auto for the one of this machine"
ATTEMPTS = 3  # times that a task is begun whose process dies
REACHABLE_S, JOINABLE_S = 5, 30  # seconds in which an address must take a connection, and in which it must prove to be a Ray cluster
POLL_S, BUSY_S, BUSY_PATIENCE_S = 0.5, 2.0, 60.0  # between two looks; before a task is tried again whose files another process writes
OBJECT_STORE_BYTES = 100 * 2**20  # results are small
DEAD = ("WorkerCrashedError", "NodeDiedError", "OutOfMemoryError", "LocalRayletDiedError", "ObjectLostError", "OwnerDiedError")
JOIN_SCRIPT = "import sys, ray; ray.init(sys.argv[1], log_to_driver=False); ray.shutdown()"

Tell = Callable[[str], None]
TaskFunction = Callable[[Any, Tell], Any]
Show = Callable[[Mapping[str, str]], None]


@dataclass(frozen=True)
class TaskResources:
    """What each task of a cluster gets.

    Attributes:
        cpus: CPU threads.
        gpus: GPUs; a share below 1 lets tasks share one. None: one where the cluster has any.
    """

    cpus: int = 1
    gpus: float | None = None


@dataclass(frozen=True)
class EngineWords:
    """The cluster that a user asked for.

    Attributes:
        address: HOST:PORT of one that runs; "auto" for the one of this machine; "" for that one, or a new one.
        resources: what each task is to get.
        device: "auto", "cpu" or "cuda".
    """

    address: str
    resources: TaskResources
    device: str

    def device_of_tasks(self, granted: TaskResources) -> str:
        """The device of each task, by the GPUs that it got."""
        return "cuda" if granted.gpus else "cpu"


def engine_of_options(on: str | None, gpus_each: float | None, threads: int | None, device: str) -> EngineWords | None:
    """The cluster that options ask for; None where they ask for none.

    Args:
        on: as `cluster_address` reads it.
        gpus_each: GPUs of each task; None for one where there are any.
        threads: CPU threads of each task; None for one.
        device: "auto", "cpu", "cuda".

    Raises:
        InputError: for options that do not go together.
    """
    address = cluster_address(on or "")
    if address is None:
        if gpus_each is not None:
            raise InputError("--gpus-each belongs to a cluster: pass --on ray too")
        return None
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"--on gives each task its GPUs: --device is auto, cpu or cuda, not {device}")
    if gpus_each is not None and bool(gpus_each) != (device == "cuda") and device != "auto":
        raise InputError(f"--gpus-each {gpus_each:g} and --device {device} do not go together")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("--on begins its own processes: leave torchrun out")
    gpus = 0.0 if device == "cpu" else 1.0 if device == "cuda" and gpus_each is None else gpus_each
    return EngineWords(address, TaskResources(threads or 1, gpus), device)


@dataclass(frozen=True)
class TaskEvent:
    """What a cluster tells of a task.

    Attributes:
        name: of the task.
        value: what its function gave, where it has ended; None otherwise.
        sentence: what else is to be told, such as that its process died; "" where it has ended.
    """

    name: str
    value: Any = None
    sentence: str = ""


def cluster_address(engine: str) -> str | None:
    """The address in the words of an engine: "" for a local cluster that is started unless one runs; None for no engine.

    Args:
        engine: "ray", "ray:HOST:PORT", "ray:auto"; "" for none.

    Raises:
        InputError: for other words.

    Example:
        >>> cluster_address("ray:10.0.0.1:6379"), cluster_address("ray"), cluster_address("")
        ('10.0.0.1:6379', '', None)
    """
    if not engine:
        return None
    name, colon, address = engine.partition(":")
    host, _, port = address.rpartition(":")
    good = not colon or address == "auto" or (host and port.isascii() and port.isdecimal() and "/" not in host and int(port) < 2**16)
    if name != "ray" or not good:
        raise InputError(f"cannot read --on {engine}: {ENGINE_FORM}")
    return address


def ray_package() -> Any:
    """The package ray, silent and telling nobody that it is used. Raises InputError where it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES", str(OBJECT_STORE_BYTES))
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else Ray warns of it
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError as error:
        raise InputError(f"--on ray needs the package {error.name}, which is not installed: pip install ray") from None


@contextmanager
def join_cluster(address: str, wanted: TaskResources) -> Iterator[TaskResources]:
    """Joins a Ray cluster, or starts one on this machine, and leaves it at the end; one that was started ends with it.

    Args:
        address: HOST:PORT of a cluster that runs; "auto" for the one of this machine; "" for that one, or a new one.
        wanted: what each task is to get.

    Returns:
        A context that gives what each task gets, with the number of GPUs settled.

    Raises:
        InputError: where ray is missing, nothing answers in time, or no machine of the cluster has what a task needs.
    """
    ray = ray_package()
    place = address_to_join(address)
    with kept_signal_handlers():
        try:
            ray.init(place, include_dashboard=False, log_to_driver=False, logging_level="error")
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise InputError(f"Ray cannot be begun ({place}): {str(error).partition('. ')[0]}") from None
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        yield granted_resources(nodes, wanted)
    finally:
        with kept_signal_handlers():
            ray.shutdown()


def address_to_join(address: str) -> str:
    """The address of a cluster that answers; "local" for a new one. Raises InputError where the cluster that was asked for does not answer.

    Args:
        address: HOST:PORT; "auto" for the cluster of this machine; "" for that one where it answers, else a new one.
    """
    named = address if address not in ("", "auto") else os.environ.get("RAY_ADDRESS", "")
    if named:
        refuse_no_answer(named)
        return named
    file = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster"  # where `ray start` writes it
    there = file.read_text().strip() if file.is_file() else ""
    if address == "auto" and not there:
        raise InputError("no Ray cluster runs on this machine: begin one with ray start --head, or pass --on ray")
    try:
        refuse_no_answer(there or ":0")
    except InputError:
        if address == "auto":
            raise
        return "local"  # the file of a cluster that was killed stays
    return there


@contextmanager
def kept_signal_handlers() -> Iterator[None]:
    """Puts the handlers of SIGINT and SIGTERM back afterwards, as Ray sets its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def refuse_no_answer(address: str) -> None:
    """InputError where an address takes no connection, or is no Ray cluster that this machine can join, within seconds."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACHABLE_S).close()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"nothing answers at {address}, where --on looks for a Ray cluster: {reason}") from None
    try:
        told = subprocess.run([sys.executable, "-c", JOIN_SCRIPT, address], capture_output=True, timeout=JOINABLE_S, check=False)
    except subprocess.TimeoutExpired:
        raise InputError(f"what listens at {address} does not answer as a Ray cluster within {JOINABLE_S} s") from None
    if told.returncode:
        last = told.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise InputError(f"the Ray cluster at {address} cannot be joined from here: {''.join(last) or f'exit code {told.returncode}'}")


def granted_resources(nodes: list[Mapping[str, float]], wanted: TaskResources) -> TaskResources:
    """What each task gets. Raises InputError where no machine has that, as the task would wait for ever.

    Args:
        nodes: CPUs and GPUs of each machine, as Ray names them.
        wanted: what was asked for.
    """
    most = max((node.get("GPU", 0.0) for node in nodes), default=0.0)
    gpus = wanted.gpus if wanted.gpus is not None else float(most > 0)
    if gpus > 1 and gpus != int(gpus):
        raise InputError(f"a task gets a share of one GPU or whole ones, not {gpus:g}")
    if any(node.get("CPU", 0.0) >= wanted.cpus and node.get("GPU", 0.0) >= gpus for node in nodes):
        return TaskResources(wanted.cpus, gpus)
    cpus = max((node.get("CPU", 0.0) for node in nodes), default=0.0)
    raise InputError(
        f"no machine of the Ray cluster has {wanted.cpus} CPUs and {gpus:g} GPUs for one task: the largest have {cpus:g} and {most:g}"
    )


class Board:
    """The last word of each task, in a process of its own that all tasks reach."""

    def __init__(self) -> None:
        self.words: dict[str, str] = {}

    def tell(self, name: str, word: str) -> None:
        """Takes a task's word."""
        self.words[name] = word

    def read(self) -> dict[str, str]:
        """The words by task."""
        return self.words


def run_task(function: TaskFunction, arguments: Any, name: str, folder: str, resources: TaskResources, board: Any) -> tuple[str, Any]:
    """What a process of the cluster does: the task in the folder of the call, with its share of the machine.

    Returns:
        "done" and what the function gave; or "refused" and the InputError with which it ended.
    """
    import torch

    os.chdir(folder)
    torch.set_num_threads(resources.cpus)

    def tell(word: str) -> None:
        if board is not None:
            board.tell.remote(name, word)

    tell("running")
    try:
        return "done", function(arguments, tell)
    except InputError as error:
        return "refused", error


class TaskPool:
    """Tasks on a cluster that was joined, until all have ended.

    Attributes:
        function: what runs, a function of a module of ours.
        tasks: its arguments by the name of the task.
        resources: what each task gets.
        show: is shown the last word of each task at every look; None where nobody looks.
    """

    def __init__(self, function: TaskFunction, tasks: Mapping[str, Any], resources: TaskResources, show: Show | None) -> None:
        self.ray, self.function, self.tasks, self.resources, self.show = ray_package(), function, tasks, resources, show
        self.board = self.ray.remote(Board).options(num_cpus=0).remote() if show is not None else None
        self.running: dict[Any, str] = {}
        self.delayed: dict[str, float] = {}
        self.attempts: Counter[str] = Counter()
        self.dead: dict[str, str] = {}
        self.busy_since = 0.0

    def start(self, name: str) -> None:
        """Hands a task to the cluster, which begins it once there is room."""
        wanted = {"num_cpus": self.resources.cpus, "num_gpus": self.resources.gpus, "max_retries": 0}
        remote = self.ray.remote(max_calls=1, **wanted)(run_task)  # one process for each task
        words = self.function, self.tasks[name], name, str(Path.cwd()), self.resources, self.board
        self.running[remote.remote(*words)] = name

    def events(self) -> Iterator[TaskEvent]:
        """Runs all tasks; gives what each one's function gave as it ends, and what happened to others.

        Raises:
            InputError: with which a task ended; the others are stopped.
            UnfinishedError: at the end, where the process of a task died ATTEMPTS times.
        """
        try:
            for name in self.tasks:
                self.start(name)
            while self.running or self.delayed:
                yield from self.look()
        finally:
            for reference in self.running:
                self.ray.cancel(reference, force=True)
            if self.board is not None:
                self.ray.kill(self.board)
        if self.dead:
            which = ", ".join(f"{name} ({why})" for name, why in self.dead.items())
            raise UnfinishedError(f"the process of {which} died {ATTEMPTS} times: go on with the same words and --resume")

    def look(self) -> Iterator[TaskEvent]:
        """Waits a moment, and takes what has ended meanwhile."""
        now = time.monotonic()
        for name in [name for name, when in self.delayed.items() if when <= now]:
            del self.delayed[name]
            self.start(name)
        if self.running:
            ended, _ = self.ray.wait([*self.running], timeout=POLL_S)
        else:
            ended = []
            time.sleep(POLL_S)
        if self.show is not None and self.board is not None:
            self.show(self.ray.get(self.board.read.remote()))
        for reference in ended:
            yield from self.take(self.running.pop(reference), reference)

    def take(self, name: str, reference: Any) -> Iterator[TaskEvent]:
        """Takes a task that has ended, however it did."""
        try:
            state, value = self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            kind = type(error).__name__
            if kind not in DEAD:
                raise
            yield TaskEvent(name, sentence=self.begin_again(name, kind))
            return
        if state == "done":
            self.busy_since = 0.0
            yield TaskEvent(name, value)
        elif isinstance(value, BusyError) and self.can_wait():
            self.delayed[name] = time.monotonic() + BUSY_S
        else:
            raise value

    def begin_again(self, name: str, why: str) -> str:
        """Begins a task anew whose process died, up to ATTEMPTS times; a sentence on it."""
        self.attempts[name] += 1
        if self.attempts[name] >= ATTEMPTS:
            self.dead[name] = why
            return f"the process of {name} died {ATTEMPTS} times ({why}): it is left unfinished"
        self.start(name)
        return f"the process of {name} died ({why}): it goes on from its state"

    def can_wait(self) -> bool:
        """Whether a task may wait whose files another process writes: as long as others run, and for BUSY_PATIENCE_S where none does."""
        if self.running:
            self.busy_since = 0.0
            return True
        self.busy_since = self.busy_since or time.monotonic()
        return time.monotonic() - self.busy_since < BUSY_PATIENCE_S
