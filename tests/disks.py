"""Small disks of their own, which fill up or take nothing, as real file systems do."""

import os
import shutil
import subprocess
import sys
from contextlib import contextmanager

import pytest


@contextmanager
def small_disk(folder, size):
    """Mounts a disk in memory of so many bytes at a folder, which it makes; skips the test where mounting is not allowed."""
    if sys.platform != "linux" or os.geteuid() or not shutil.which("mount"):
        pytest.skip("a disk can only be mounted by root on Linux")
    folder.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"mount is not allowed here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def remount(folder, options):
    """Changes a disk: "size=64m" makes room, "ro" lets it take nothing any more."""
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)
