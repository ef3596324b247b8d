"""Whatever is expected, taken and asked for in whatever order, stored pixels are those of a tensor."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from robench.data import load_images

N = 23
PLACES = st.lists(st.integers(0, N - 1), max_size=30)
STEPS = st.lists(st.tuples(st.sampled_from(["expect", "ask", "take"]), PLACES), max_size=8)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    top = tmp_path_factory.mktemp("tree")
    (top / "a").mkdir()
    for k in range(N):
        Image.fromarray(np.random.default_rng(k).integers(0, 256, (6, 5, 3), dtype=np.uint8)).save(top / "a" / f"{k:02d}.png")
    return top


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(steps=STEPS, workers=st.sampled_from([0, 1, 2]), unit=st.integers(1, 5), ahead=st.integers(1, 12))
def test_any_order_of_asking_gives_the_pixels_of_the_files(steps, workers, unit, ahead, tree):
    memory = load_images(f"folder:{tree}", pixels="memory").x
    disk = load_images(f"folder:{tree}", pixels="disk", workers=workers).x
    disk.decoder.unit, disk.decoder.most = unit, max(unit, ahead)
    for step, places in steps:
        rows = torch.tensor([place % len(memory) for place in places] if len(memory) else [], dtype=torch.int64)
        if step == "expect":
            disk.expect(rows)
        elif step == "ask":
            assert torch.equal(disk[rows], memory[rows])
        elif len(rows):
            disk, memory = disk.take(rows), memory[rows]
        assert len(disk.decoder.orders) <= disk.decoder.most
