"""The worker processes that decode images, and what the main process hands to them and takes from them."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from typing import IO

import numpy as np

from robench.core.decoder import ANSWER_HEAD, HAS_PIXELS, IS_DAMAGED, IS_REFUSED
from robench.core.decoding import DamagedImageError, Item, Pixels8
from robench.core.errors import InputError, UnfinishedError
from robench.core.preprocessing import Preprocessing

WORKER_CODE = "import sys; sys.path[:] = {path!r}; from robench.core.decoder import serve_standard_streams; serve_standard_streams()"
Answer = tuple[Pixels8, str] | InputError | RuntimeError  # the pixels (3, H, W) of an image and their digest, or why there are none


class Order:
    """Some items that one worker is to decode, and its answers as soon as they are there."""

    def __init__(self, items: Sequence[Item], preprocessing: Preprocessing) -> None:
        self.items, self.preprocessing = items, preprocessing
        self.answers: list[Answer] = []
        self.end = ""
        self.done = threading.Event()

    def wait(self) -> list[Answer]:
        """The answers, in the order of the items.

        Raises:
            UnfinishedError: where the worker died.
        """
        self.done.wait()
        if self.end:
            raise UnfinishedError(self.end)
        return self.answers


class Worker:
    """One worker process. A thread reads its answers, so that it decodes on while the main process is busy."""

    def __init__(self) -> None:
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", WORKER_CODE.format(path=sys.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment,
            process_group=0,  # Ctrl-C in a terminal is for the process that asks, also while this one starts
        )  # fmt: skip
        self.orders: list[Order] = []
        self.end = ""  # how the process ended
        self.lock = threading.Lock()
        self.waiting = threading.Semaphore(0)
        self.reader = threading.Thread(target=self.read_answers, daemon=True)
        self.reader.start()

    def send(self, order: Order) -> None:
        """Hands an order to the process; its thread completes it."""
        line = {"items": [list(item) for item in order.items], "preprocessing": order.preprocessing.plain()}
        with self.lock:
            self.orders.append(order)
            if self.end:  # nobody reads any more
                order.end = self.end
                order.done.set()
                return
        self.waiting.release()
        assert self.process.stdin is not None
        with suppress(OSError):  # the thread tells of a process that died
            self.process.stdin.write(f"{json.dumps(line)}\n".encode())
            self.process.stdin.flush()

    def read_answers(self) -> None:
        """Completes order after order, until the process ends."""
        assert self.process.stdout is not None
        while True:
            self.waiting.acquire()
            with self.lock:
                order = next(iter(self.orders), None)
            if order is None:  # it was closed
                break
            try:
                order.answers = [read_answer(self.process.stdout) for _ in order.items]
            except EOFError:
                break
            with self.lock:
                self.orders.pop(0)
            order.done.set()
        code = self.process.wait()
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        with self.lock:
            self.end = f"a process that decodes images {how} before it was done: go on with --resume, or with --workers 0 for none"
            for order in self.orders:
                order.end = self.end
                order.done.set()

    @property
    def is_alive(self) -> bool:
        """Whether the process is there."""
        return self.process.poll() is None

    def close(self) -> None:
        """Ends the process and its thread."""
        self.process.kill()
        self.process.wait()
        self.waiting.release()
        self.reader.join()
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()


def read_answer(answers: IO[bytes]) -> Answer:
    """The next answer of a process. Raises EOFError where it has ended."""
    kind, height, width, size, digest = ANSWER_HEAD.unpack(read_whole(answers, ANSWER_HEAD.size))
    body = read_whole(answers, size)
    if kind == HAS_PIXELS:
        return np.frombuffer(body, np.uint8).reshape(3, height, width), digest.decode()
    sentence = bytes(body).decode(errors="surrogatepass")  # a name need not be UTF-8
    if kind in (IS_DAMAGED, IS_REFUSED):
        return DamagedImageError(sentence) if kind == IS_DAMAGED else InputError(sentence)
    return RuntimeError(f"a process that decodes images failed: {sentence}")


def read_whole(stream: IO[bytes], size: int) -> bytearray:
    """So many bytes of a stream."""
    content = bytearray(size)
    view, have = memoryview(content), 0
    while have < size:
        count = stream.readinto(view[have:])  # type: ignore[attr-defined]
        if not count:
            raise EOFError
        have += count
    return content


class WorkerPool:
    """Workers that are started as they are needed; each order goes to the one that has the least to do."""

    def __init__(self, count: int) -> None:
        self.count, self.owner = count, os.getpid()
        self.workers: list[Worker] = []

    def send(self, order: Order) -> None:
        """Hands an order to a worker."""
        for dead in [worker for worker in self.workers if not worker.is_alive]:
            self.workers.remove(dead)
            dead.close()
        idle = min(self.workers, key=lambda worker: len(worker.orders), default=None)
        if idle is None or (idle.orders and len(self.workers) < self.count):
            idle = Worker()
            self.workers.append(idle)
        idle.send(order)

    def close(self) -> None:
        """Ends the workers; those of the process that forked this one are left alone."""
        if self.owner == os.getpid():
            for worker in self.workers:
                worker.close()


def worker_pool(count: int) -> WorkerPool:
    """The workers of this process, shared by all that lies on the disk.

    Args:
        count: how many processes, at least 1.
    """
    return pool_of_process(count, os.getpid())


@cache
def pool_of_process(count: int, process: int) -> WorkerPool:  # noqa: ARG001 - a fork has workers of its own
    """The workers of one process."""
    pool = WorkerPool(count)
    atexit.register(pool.close)
    return pool
