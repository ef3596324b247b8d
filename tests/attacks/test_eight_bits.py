"""Adversarial images in 8 bits: rounded inside the threat, asked again, and written as pictures that hold what is claimed."""

import csv
import io
import json

import numpy as np
import pytest
import torch
from commandline import robench
from PIL import Image
from places import CHECKPOINT
from torch import nn

from robench import evaluate
from robench.attacks.eight_bits import eight_bit_points, rounded_labels
from robench.core.errors import InputError
from robench.core.recipes import parse_recipe
from robench.core.threat import Threat


def grey(n, shape=(3, 8, 8), seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, *shape), generator=g).float() / 255, g


@pytest.mark.parametrize(
    ("norm", "eps"), [("linf", 8 / 255), ("linf", 1 / 255), ("linf", 1.5 / 255), ("l2", 0.5), ("l2", 0.05), ("l1", 3.0), ("l1", 0.02)]
)
def test_rounding_gives_grey_levels_inside_the_threat_that_are_next_to_the_point(norm, eps):
    x, g = grey(40)
    threat = Threat(norm, eps)
    x_adv = threat.project(x, x + eps * torch.randn(x.shape, generator=g))
    rounded = threat.project_to_grey_levels(x, x_adv)
    assert torch.equal((255 * rounded).round() / 255, rounded)
    assert bool(threat.contains(x, rounded).all())
    assert float((rounded - x_adv).abs().max()) < (1 + 1e-3) / 255
    assert torch.equal(threat.project_to_grey_levels(x, x), x)


def test_linf_takes_the_nearest_level_that_lies_in_the_ball():
    x = torch.tensor([100.0, 100.0, 100.0, 0.0, 255.0]).view(1, 1, 1, 5) / 255
    x_adv = torch.tensor([101.4, 101.5, 98.5, 1.4, 253.6]).view(1, 1, 1, 5) / 255
    levels = 255 * Threat("linf", 1.5 / 255).project_to_grey_levels(x, x_adv)
    assert levels.flatten().tolist() == pytest.approx([101, 101, 99, 1, 254])


def test_l2_takes_the_nearest_levels_as_far_as_the_ball_allows_and_the_cheapest_first():
    x = torch.full((1, 1, 1, 2), 100 / 255)
    x_adv = torch.tensor([100.6, 102.6]).view(1, 1, 1, 2) / 255  # nearest: 101 and 103, of length 3.16; towards x: 100 and 102, of length 2
    for eps, levels in ((3.2, [101, 103]), (2.7, [101, 102]), (2.1, [100, 102])):
        assert (255 * Threat("l2", eps / 255).project_to_grey_levels(x, x_adv)).flatten().tolist() == pytest.approx(levels)


class Edge(nn.Module):
    """Two classes by the sum of all pixels: it gives class 1 above 255 times `least`."""

    def __init__(self, least):
        super().__init__()
        self.least = least

    def forward(self, x):
        over = (255 * x).flatten(1).sum(1) - self.least
        return torch.stack((-over, over), 1)


def test_neighbouring_levels_are_tried_where_rounding_does_not_fool():
    x = torch.full((16, 1, 4, 4), 100 / 255)
    x_adv = x + 0.45 / 255  # rounds to x; sixteen subpixels that go up by 1 give 1616
    threat, y = Threat("linf", 1.2 / 255), torch.zeros(16, dtype=torch.int64)
    model = Edge(1606.5)
    from robench.core.draws import Draws

    assert (rounded_labels(model, x, x_adv, y, threat) == 0).all()
    points, fooled = eight_bit_points(model, x, x_adv, y, threat, Draws(0, torch.arange(16), "png"))
    assert fooled.all()
    assert threat.contains(x, points).all()
    assert torch.equal((255 * points).round() / 255, points)
    _, none = eight_bit_points(Edge(1616.5), x, x_adv, y, threat, Draws(0, torch.arange(16), "png"))  # more than the ball holds
    assert not none.any()


def test_samples_and_rows_say_what_rounding_leaves(problem):
    p = problem("linear", n=60)
    x = (255 * p.x).round().to(torch.uint8)
    with torch.no_grad():
        y = p.model(x.float() / 255).argmax(1)
    eps = 0.7 / 255  # no grey level but the pixel's own lies in the ball: no rounded image fools
    found = evaluate(p.model, x, y, suite=[parse_recipe("pgd-margin")], eps=eps)
    left = {row.metric: row.value for row in found.rows if row.probe == "pgd-margin"}
    assert left["accuracy"] < 1 == left["rounded_accuracy"]
    assert all(sample.rounded_pred == (sample.label if sample.broken_by else -1) for sample in found.samples)
    more = evaluate(p.model, x, y, suite=[parse_recipe("pgd-margin")], eps=[eps, 30 / 255])
    again = {row.eps: row.value for row in more.rows if row.metric == "rounded_accuracy"}
    assert again == {eps: 1}  # at 30/255 those that fell before were not attacked, and nothing is known of them
    alone = evaluate(p.model, x, y, suite=[parse_recipe("pgd-margin")], eps=30 / 255)
    known = {row.eps: row.value for row in alone.rows if row.metric == "rounded_accuracy"}
    assert known == {30 / 255: sum(sample.rounded_pred in (-1, sample.label) for sample in alone.samples) / 60}
    assert known[30 / 255] < 1


def test_pictures_fool_and_lie_in_the_ball_and_the_table_names_those_that_are_missing(problem, tmp_path):
    p = problem("linear", n=40)
    x = (255 * p.x).round().to(torch.uint8)
    with torch.no_grad():
        y = p.model(x.float() / 255).argmax(1)
    eps, ids = 2 / 255, 100 + torch.arange(40)
    found = evaluate(p.model, x, y, suite=[parse_recipe("pgd-margin")], eps=eps, ids=ids, pngs=tmp_path / "png")
    assert {sample.png for sample in found.samples if not sample.broken_by} == {""}
    written = {sample.png: sample for sample in found.samples if sample.png not in ("", "none")}
    assert {path.name for path in (tmp_path / "png").iterdir()} == set(written)
    assert len(written) > 3
    for name, sample in written.items():
        drawn = np.asarray(Image.open(io.BytesIO((tmp_path / "png" / name).read_bytes())))
        point = torch.tensor(drawn).permute(2, 0, 1)[None].float() / 255
        assert (point - x[sample.sample - 100].float() / 255).abs().max() <= eps + 1e-6
        assert p.model(point).argmax(1) != sample.label


def test_a_run_that_writes_pictures_is_taken_up_and_not_by_one_that_does_not(problem, tmp_path):
    p = problem("linear", n=30)
    words = {"suite": [parse_recipe("fgsm"), parse_recipe("noise")], "eps": 20 / 255, "batch_size": 8, "folder": tmp_path}
    whole = evaluate(p.model, p.x, p.y, pngs=tmp_path / "png", **words)
    path = tmp_path / "state-0.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:6]))
    with pytest.raises(InputError, match="its saved is"):
        evaluate(p.model, p.x, p.y, resume=True, **words)
    again = evaluate(p.model, p.x, p.y, pngs=tmp_path / "png", resume=True, **words)
    assert str(again.samples) == str(whole.samples)
    assert len(list((tmp_path / "png").iterdir())) == sum(sample.png.endswith(".png") for sample in whole.samples) > 0


def test_images_of_two_channels_are_no_pictures(problem, tmp_path):
    p = problem("linear", n=4, shape=(2, 5, 5))
    with pytest.raises(InputError, match="2 channels are no PNG files"):
        evaluate(p.model, p.x, p.y, suite=[parse_recipe("fgsm")], eps=0.1, pngs=tmp_path / "png")


def test_the_command_prints_the_line_and_writes_the_pictures(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\n\ndef net():\n    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10))\n"
    )
    words = ["attack", f"{tmp_path}/mine.py:net", "--attack", "pgd-10", "--data", "shapes", "--n", 60, "--eps", "4/255"]
    result = robench(*words, "--save-png", "--out", tmp_path / "out")
    assert "after 8-bit" in result.stdout
    with (tmp_path / "out" / "samples.csv").open(newline="") as file:
        names = {line["png"] for line in csv.DictReader(file)} - {"", "none"}
    assert names
    assert {path.name for path in (tmp_path / "out").glob("x_adv-*.png")} == names
    files = json.loads((tmp_path / "out" / "manifest.json").read_text())["files"]
    assert names < set(files)
    again = robench(*words, "--save-png", "--resume", "--out", tmp_path / "out")  # shows the finished run
    assert "after 8-bit" in again.stdout
    robench(*words, "--force", "--out", tmp_path / "out")
    assert not list((tmp_path / "out").glob("x_adv-*.png"))  # those of the run that was replaced


def test_pictures_are_named_as_written_only_where_there_are_some(tmp_path):
    for eps, some in (("0.01/255", False), ("64/255", True)):
        out = tmp_path / str(some)
        said = robench("attack", CHECKPOINT, "--attack", "fgsm", "--eps", eps, "--n", 8, "--save-png", "--out", out).stderr
        assert ("x_adv-*.png" in said) is some
        assert bool(list(out.glob("x_adv-*.png"))) is some
