"""The script of GPU checks: it runs to its end without a GPU too, and fails where a check fails."""

import os
import subprocess
import sys

import pytest
import torch
from places import ROOT


def check(*words):
    """The script, run with this interpreter."""
    return subprocess.run(
        ["bash", "tests/gpu/check.sh", *words],
        cwd=ROOT,
        env=os.environ | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_check_that_there_is_not_is_refused():
    done = check("--only", "draws,nosuch")
    assert done.returncode == 2
    assert "no check is called 'nosuch'" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU the script itself is run")
def test_without_a_gpu_the_script_runs_to_its_end_and_says_what_was_not_run():
    done = check()
    assert done.returncode == 0, done.stderr
    lines = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")][1:]
    results = {line[0].removeprefix("| "): line[1] for line in lines}
    assert len(results) == 11
    for name in ("cuda-tests", "draws", "verdicts", "tf32", "out-of-memory"):
        assert results[name] == "not run: no CUDA device"
    for name in ("bf16", "nccl", "rice2020", "autoattack-resnet18", "autoattack-wrn-28-10"):
        assert "not run" not in results[name]
