"""The checks of tests/gpu/check.sh: each measures one thing on the GPU, or at tiny size on the CPU, and says it in one line of a table."""

from __future__ import annotations

import argparse
import math
import os
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from robench import evaluate
from robench.attacks.kernels import compile_failure
from robench.core.draws import Draws
from robench.core.errors import InputError
from robench.core.processes import current_world
from robench.core.recipes import Recipe
from robench.data import Images, load_images
from robench.models import build_network, load_model
from robench.results.measurement import Measurement
from robench.training.epochs import fit
from robench.training.presets import PRESETS
from robench.training.settings import plan_of, resolved_settings
from robench.training.steps import begin_training
from robench.training.types import Step

ROOT = Path(__file__).parents[2]
CHECKPOINT = ROOT / "checkpoints" / "shapes-cnn-pgd-at.pt"
ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
CIFAR_TRAIN = 50_000  # images, of which a training holds 1,000 out
EPS_SMALL = 0.1 / 255  # at which nearly all images of a network with random weights stand


class NotRunError(Exception):
    """The check needs what is not here."""


@dataclass(frozen=True)
class Line:
    """One line of the table: what was checked, the result, and the seconds that it took."""

    name: str
    result: str
    seconds: float
    failed: bool = False


def needs_gpu() -> None:
    """Ends the check where there is no GPU."""
    if not ON_GPU:
        raise NotRunError("no CUDA device")


def images_and_model(n: int) -> tuple[nn.Module, Images]:
    """The committed checkpoint on the device, and its first n test images."""
    return load_model(CHECKPOINT, device=DEVICE), load_images("shapes", "test", n=n)


def attacked(model: nn.Module, x: Tensor, y: Tensor, recipe: str = "apgd-ce", **how: object) -> Measurement:
    """The evaluation of one attack at 8/255."""
    return evaluate(model, x, y, suite=[Recipe(recipe)], eps=8 / 255, device=DEVICE, **how)  # type: ignore[arg-type]


def cuda_tests() -> str:
    """The tests of the suite that need a GPU."""
    needs_gpu()
    words = [
        "-m",
        "pytest",
        "-q",
        "-k",
        "cuda_device_gives",
        "-p",
        "no:cacheprovider",
        "tests/core/test_draws.py",
        "tests/corruptions/test_corruptions.py",
        "tests/corruptions/test_weather.py",
    ]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr[-200:]
    assert done.returncode == 0, last
    return last


def draws() -> str:
    """Random numbers of the GPU against those of the CPU: uniform, signs and integers to the bit, normal ones to rounding."""
    needs_gpu()
    here = Draws(7, torch.arange(64), "check")
    there = Draws(7, torch.arange(64, device=DEVICE), "check")
    for name, words in (("uniform", ((3, 32, 32),)), ("signs", ((3, 32, 32),)), ("integers", (1000, (17,)))):
        assert torch.equal(getattr(here, name)(*words), getattr(there, name)(*words).cpu()), f"{name} differs"
    gap = float((here.normal((3, 32, 32)) - there.normal((3, 32, 32)).cpu()).abs().max())
    assert gap < 1e-5, f"normal numbers differ by {gap:.2g}"
    return f"uniform, signs, integers equal to the bit; normal within {gap:.1g}"


def verdicts() -> str:
    """The verdicts of APGD-CE on the GPU against those on the CPU, image by image."""
    needs_gpu()
    model, images = images_and_model(200)
    there = attacked(model, images.x, images.y)
    here = evaluate(model.cpu(), images.x, images.y, suite=[Recipe("apgd-ce")], eps=8 / 255)
    differ = sum(a.broken_by != b.broken_by for a, b in zip(here.samples, there.samples, strict=True))
    assert differ <= 2, f"{differ} of 200 verdicts differ"
    return f"{differ} of 200 verdicts of apgd-ce differ from the CPU's"


def compiled() -> str:
    """The compiled arithmetic of attacks against the plain one."""
    if why := compile_failure():
        raise NotRunError(why)
    model, images = images_and_model(200 if ON_GPU else 16)
    attack = "apgd-ce"
    attacked(model, images.x[:8], images.y[:8], attack, compiled=True)
    begin_ = time.perf_counter()
    plain = attacked(model, images.x, images.y, attack)
    between = time.perf_counter()
    quick = attacked(model, images.x, images.y, attack, compiled=True)
    end = time.perf_counter()
    differ = sum(a.broken_by != b.broken_by for a, b in zip(plain.samples, quick.samples, strict=True))
    assert differ <= len(images) // 50, f"{differ} of {len(images)} verdicts differ"
    return f"{differ} of {len(images)} verdicts differ; {(end - between) / (between - begin_):.2f} of the time of eager"


def lower_precision(precision: str) -> str:
    """An attack that searches in fewer bits: what it leaves beside fp32, and its time."""
    model, images = images_and_model(500 if ON_GPU else 32)
    attacked(model, images.x[:8], images.y[:8], precision=precision)
    begin_ = time.perf_counter()
    exact = attacked(model, images.x, images.y)
    between = time.perf_counter()
    rough = attacked(model, images.x, images.y, precision=precision)
    end = time.perf_counter()
    gap = rough.accuracy("apgd-ce") - exact.accuracy("apgd-ce")
    assert abs(gap) < 0.05, f"{100 * gap:+.1f} points beside fp32"
    return f"{100 * gap:+.1f} points left beside fp32, n = {len(images)}; {(end - between) / (between - begin_):.2f} of its time"


def bf16() -> str:
    """bf16."""
    return lower_precision("bf16")


def tf32() -> str:
    """tf32."""
    needs_gpu()
    return lower_precision("tf32")


def out_of_memory() -> str:
    """An evaluation that needs more memory than there is ends in a sentence, and a smaller batch goes on in the same process."""
    needs_gpu()
    torch.manual_seed(0)
    model = build_network("wrn-28-10", classes=10, shape=(3, 32, 32)).to(DEVICE).eval()
    x = torch.rand(4096, 3, 32, 32)
    y = torch.zeros(len(x), dtype=torch.int64)
    torch.cuda.set_per_process_memory_fraction(4 * 2**30 / torch.cuda.get_device_properties(0).total_memory)
    try:
        evaluate(model, x, y, suite=[Recipe("fgsm")], eps=EPS_SMALL, device=DEVICE, batch_size=len(x))
    except InputError as error:
        sentence = str(error)
    else:
        raise AssertionError("4,096 images of WRN-28-10 fitted into 4 GiB")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    assert "batch-size" in sentence, sentence
    evaluate(model, x[:64], y[:64], suite=[Recipe("fgsm")], eps=EPS_SMALL, device=DEVICE, batch_size=16)
    return f'exit with one sentence: "{sentence}"'


def one_process_group() -> str:
    """An evaluation inside a process group of one: nccl on a GPU, gloo elsewhere."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": "0", "WORLD_SIZE": "1"}
    torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if ON_GPU else "gloo")
    try:
        numbers = torch.arange(4.0, device=DEVICE)
        torch.distributed.all_reduce(numbers)
        assert numbers.tolist() == [0, 1, 2, 3]
        parts: list[object] = [None]
        torch.distributed.all_gather_object(parts, {"rank": current_world().rank})
        assert parts == [{"rank": 0}]
        model, images = images_and_model(32)
        found = attacked(model, images.x, images.y)
    finally:
        torch.distributed.destroy_process_group()
    alone = attacked(model, images.x, images.y)
    assert [s.broken_by for s in found.samples] == [s.broken_by for s in alone.samples]
    return f"{'nccl' if ON_GPU else 'gloo'}: sums, objects and the verdicts of an evaluation as without a group"


def autoattack(arch: str, n: int, size: int) -> str:
    """Our AutoAttack and its authors' in alternation, on a network with random weights whose own predictions are the labels."""
    torch.manual_seed(0)
    model = build_network(arch, classes=10, shape=(3, size, size)).to(DEVICE).eval().requires_grad_(False)
    x = torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y = model(x.to(DEVICE)).argmax(1).cpu()
    how = {"suite": "autoattack", "eps": EPS_SMALL, "device": DEVICE, "batch_size": n}
    seconds: dict[str, float] = {}
    left: dict[str, float] = {}
    for engine in ("robench", "reference"):
        evaluate(model, x[:2], y[:2], **(how | {"suite": [Recipe("apgd-ce")]}), engine=engine, prepare=engine == "robench")  # type: ignore[arg-type]
        if ON_GPU:
            torch.cuda.reset_peak_memory_stats()
        begin_ = time.perf_counter()
        found = evaluate(model, x, y, **how, engine=engine, prepare=engine == "robench")  # type: ignore[arg-type]
        seconds[engine], left[engine] = time.perf_counter() - begin_, found.accuracy("autoattack")
    assert left["robench"] <= left["reference"] + 1.5 / math.sqrt(n), left
    ratio = seconds["robench"] / seconds["reference"]
    ours, theirs = (f"{100 * left[engine]:.1f} % left in {seconds[engine]:.0f} s" for engine in ("robench", "reference"))
    memory = f", at most {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if ON_GPU else ""
    return f"{ratio:.2f} of the reference's time ({ours}; {theirs}{memory}), n = {n}, {size} px"


def autoattack_resnet18() -> str:
    """ResNet-18, on a CPU a small network in its place."""
    return autoattack("resnet18", 64, 32) if ON_GPU else "an MLP in its place: " + autoattack("mlp,width=16,depth=1", 4, 8)


def autoattack_wrn() -> str:
    """WRN-28-10, on a CPU a small network in its place."""
    return autoattack("wrn-28-10", 16, 32) if ON_GPU else "two-conv in its place: " + autoattack("two-conv", 2, 8)


def rice2020() -> str:
    """Images per second of the preset rice2020 on random images, and the hours that all its epochs would take."""
    preset, budget = PRESETS["rice2020"], 60.0 if ON_GPU else 5.0
    settings, _ = resolved_settings("rice2020", {} if ON_GPU else {"arch": "two-conv", "batch_size": 8})
    n = 12_800 if ON_GPU else 800
    x = torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = Images("random", "train", x, torch.arange(n) % 10, torch.arange(n), tuple(map(str, range(10)))).to(DEVICE)
    torch.manual_seed(0)
    run = begin_training(build_network(settings["arch"], classes=10, shape=(3, 32, 32)).to(DEVICE), plan := plan_of(settings, 0, None))
    start, seen = 0.0, 0
    for number, event in enumerate(event for event in fit(run, plan, images, images.take(slice(0, 0))) if isinstance(event, Step)):
        if number == 4:  # the first steps choose algorithms
            start, seen = time.perf_counter(), 0
        seen += event.images
        if number > 4 and time.perf_counter() - start > budget:
            break
    if ON_GPU:
        torch.cuda.synchronize()
    rate = (seen - settings["batch_size"]) / (time.perf_counter() - start)
    hours = preset["epochs"] * CIFAR_TRAIN / rate / 3600
    place = "" if ON_GPU else f"{settings['arch']} in its place: "
    return f"{place}{rate:,.0f} images/s, {hours:,.1f} hours for {preset['epochs']} epochs of {CIFAR_TRAIN:,} images"


CHECKS: dict[str, Callable[[], str]] = {
    "cuda-tests": cuda_tests,
    "draws": draws,
    "verdicts": verdicts,
    "compile": compiled,
    "bf16": bf16,
    "tf32": tf32,
    "out-of-memory": out_of_memory,
    "nccl": one_process_group,
    "rice2020": rice2020,
    "autoattack-resnet18": autoattack_resnet18,
    "autoattack-wrn-28-10": autoattack_wrn,
}


def checked(name: str, deadline: float) -> Line:
    """The line of one check; one that fails is told with its traceback on stderr."""
    begin_ = time.perf_counter()
    if begin_ > deadline:
        return Line(name, "not run: out of time", 0.0)
    try:
        result, failed = CHECKS[name](), False
    except NotRunError as why:
        result, failed = f"not run: {why}", False
    except Exception as error:
        traceback.print_exc()
        result, failed = f"FAILED: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}", True
    return Line(name, result, time.perf_counter() - begin_, failed)


def main() -> int:
    """Runs the checks, prints each as it ends and the table at the end; how many failed, at most 1."""
    parser = argparse.ArgumentParser(description="What only a GPU can show; tiny on a CPU.")
    parser.add_argument("--minutes", type=float, default=8.0, help="no check begins after three quarters of them")
    parser.add_argument("--only", default=",".join(CHECKS), help="names, parted by commas")
    args = parser.parse_args()
    unknown = set(args.only.split(",")) - set(CHECKS)
    if unknown:
        parser.error(f"no check is called {sorted(unknown)[0]!r}: there are {', '.join(CHECKS)}")
    deadline = time.perf_counter() + 45 * args.minutes
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for name in args.only.split(","):
            lines.append(checked(name, deadline))
            print(f"{lines[-1].name}: {lines[-1].result} ({lines[-1].seconds:.0f} s)", file=sys.stderr)
        os.chdir(ROOT)
    device = torch.cuda.get_device_name() if ON_GPU else "CPU, tiny sizes"
    print(f"\n`bash tests/gpu/check.sh`, {time.strftime('%Y-%m-%d')}, {device}, torch {torch.__version__}\n")
    print("| check | result | seconds |\n|---|---|---|")
    for line in lines:
        print(f"| {line.name} | {line.result} | {line.seconds:.0f} |")
    return int(any(line.failed for line in lines))


if __name__ == "__main__":
    sys.exit(main())
