"""The files of a run, of whatever kinds: tables, manifest, pictures, and one page that says what was measured and what its numbers mean."""

import json
import re

import pytest
import torch
from torch import nn

from robench.core.errors import InputError
from robench.data import Images
from robench.evaluation import api
from robench.report.folder import save_measurement

SUITE = ["pgd-10", "random-noise,t=0.1,repeats=2", "fog,severity=3", "saliency"]


class Net(nn.Module):
    """A small network whose logits depend on all pixels."""

    def __init__(self, seed):
        super().__init__()
        self.layer = nn.Linear(3 * 16 * 16, 3)
        g = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.layer.weight.copy_(torch.randn(self.layer.weight.shape, generator=g) * 0.05)

    def forward(self, x):
        return self.layer(x.flatten(1)) + (x * x).flatten(1).sum(1, keepdim=True) * 0.01


@pytest.fixture(scope="module")
def images():
    x = (torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 255).to(torch.uint8)
    y = Net(0).eval()(x / 255).argmax(1)
    return Images("toys", "test", x, y, torch.arange(12), ("cat", "dog", "<b>pig</b>"))


@pytest.fixture(scope="module")
def mixed(images):
    """Two models under two threats, with an attack, a probe, a corruption and a method."""
    return api.evaluate({"a.pt": Net(0), "<i>b</i>.pt": Net(1)}, images, suite=SUITE, threats=["linf:8/255", "l2:0.5"])


@pytest.fixture(scope="module")
def saved(mixed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results") / "out"
    return mixed.save(folder), folder


def test_a_run_of_all_kinds_leaves_every_table_and_picture_and_one_page(saved):
    written, folder = saved
    names = {path.name for path in written}
    assert names == {path.name for path in folder.iterdir()}
    assert {"rows.csv", "manifest.json", "report.html", "noise.png", "heat-a-pt.png", "sheet.png"} <= names
    assert {"samples.csv", "samples-methods.csv", "samples-probes.csv", "samples-corruptions.csv"} <= names
    assert {"accuracy-a-pt-linf.png", "accuracy-a-pt-l2.png", "examples-a-pt-l2.png"} <= names
    assert {"gallery-a-pt-saliency.png", "lorenz-saliency.png", "gini-saliency.png"} <= names
    manifest = json.loads((folder / "manifest.json").read_bytes())
    assert set(manifest["files"]) == names
    assert manifest["threat"] == [{"norm": "linf", "eps": 8 / 255}, {"norm": "l2", "eps": 0.5}]
    assert manifest["data"]["n"] == 12
    assert [one["name"] for one in manifest["checkpoint"]] == ["a.pt", "<i>b</i>.pt"]


def test_the_page_says_what_was_measured_and_what_the_numbers_mean(saved, mixed):
    page = (saved[1] / "report.html").read_text()
    words = re.sub(r"<[^>]+>", " ", re.sub(r'src="[^"]*"', "", page))
    for told in ("linf eps = 8/255; l2 eps = 0.5", "toys, test split, n = 12", "seed", "robench ", "torch ", *mixed.notes, *mixed.flags):
        assert told in words, told
    for number in ("accuracy", "error_rate", "gini", "mean_accuracy"):
        assert f'<th scope="row">{number}</th>' in page
    assert page.count("<img ") == sum(path.suffix == ".png" for path in saved[0])
    assert "<i>b</i>" not in page
    assert "&lt;i&gt;b&lt;/i&gt;.pt" in page


@pytest.mark.parametrize(("kind", "names"), [
    ("attack", {"accuracy.png", "examples.png", "confusion.png"}), ("radii", {"curve.png", "examples.png", "confusion.png"}),
    ("clean", {"accuracy.png", "confusion.png"}),
    ("probe", {"occlusion.png"}), ("corrupt", {"heat-net.png", "sheet.png"}),
])  # fmt: skip
def test_a_run_of_one_kind_has_its_pictures_and_a_page(images, tmp_path, kind, names):
    models = {"net": Net(0)}
    found = {
        "attack": lambda: api.evaluate(models, images, suite=["pgd-10"], eps=0.1),
        "radii": lambda: api.evaluate(models, images, suite=["pgd-10"], eps=[0.05, 0.1]),
        "clean": lambda: api.evaluate(models, images, suite=[]),
        "probe": lambda: api.probe(models, images, recipes=["random-occlusion-n5r10"]),
        "corrupt": lambda: api.corrupt(models, images, corruptions=["fog"], severities=[3]),
    }[kind]()
    written = {path.name for path in found.save(tmp_path / "out")}
    assert written == {"rows.csv", "samples.csv", "images.csv", "confusion.csv", "manifest.json", "report.html"} | names


def test_the_gallery_shows_the_images_that_an_attack_made_although_they_are_gone_from_the_disk(images, tmp_path, monkeypatch):
    from robench.report import pictures

    shown = []
    monkeypatch.setattr(pictures, "draw_saliency_gallery", lambda path, tiles, title, row: shown.append((tiles, row)) or path)
    found = api.saliency({"net": Net(0)}, images, methods=["saliency"], scores=["gini"], against=["pgd-10"], eps=0.1)
    pictures.draw_pictures(found, tmp_path, title="t", images=images)
    tiles, row = shown[0]
    fallen = [tile for tile in tiles if tile.x_adv is not None]
    assert row == "adversarial"
    assert fallen
    for tile in fallen:
        assert 0 < float((tile.x_adv - tile.x).abs().max()) <= 0.1 + 1e-6
        assert tile.caption_adv in images.classes


def test_examples_on_changed_images_show_what_was_attacked(images, tmp_path, monkeypatch):
    from robench.corruptions import corrupted_images
    from robench.report import pictures

    shown = []
    monkeypatch.setattr(
        pictures, "draw_change_gallery", lambda path, x, x_adv, captions, title, *rows: shown.append((x, x_adv, rows)) or path
    )
    found = api.evaluate({"net": Net(0)}, images, suite=["pgd-10 on fog,severity=3"], eps=0.1)
    pictures.draw_pictures(found, tmp_path, title="t", images=images)
    x, x_adv, rows = shown[0]
    places = torch.tensor([place for place, _, _ in found.examples])
    assert torch.equal(x, corrupted_images(images.pixels(places), images.ids[places], "fog", 3, seed=0, scale="auto"))
    assert float((x_adv - x).abs().max()) <= 0.1 + 1e-6
    assert rows == ("adversarial", "fog-3")


def test_a_result_is_a_frame_and_a_table_in_a_notebook(mixed):
    frame = mixed.to_frame()
    assert len(frame) == len(mixed.rows)
    assert list(frame.value) == pytest.approx([row.value for row in mixed.rows], nan_ok=True)
    html = mixed._repr_html_()
    assert "<th>metric</th>" in html
    assert "<th>seed</th>" not in html  # one seed, and so no column
    assert "<i>b</i>" not in html


def test_results_are_not_written_over_others(images, tmp_path):
    found = api.evaluate({"net": Net(0)}, images, suite=["fgsm"], eps=0.1)
    found.save(tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(InputError, match="holds a finished run: choose another folder"):
        found.save(tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "samples-probes.csv").write_text("mine")
    with pytest.raises(InputError, match=r"samples-probes\.csv, which belongs to no finished run"):
        found.save(tmp_path / "other")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["samples-probes.csv"]


def test_the_page_shows_flags_notes_and_the_reference_of_a_manifest(images, tmp_path):
    found = api.corrupt({"net": Net(0)}, images, corruptions=["fog", "snow"], severities=[1, 3], reference=Net(1))
    content = {**found.manifest(), "flags": ["a flag <script>"], "notes": ["a note"]}
    save_measurement(found, tmp_path, title="T", images=images, manifest=content)
    page = (tmp_path / "report.html").read_text()
    assert '<p class="flag" role="note">a flag &lt;script&gt;</p>' in page
    assert '<p class="note" role="note">a note</p>' in page
    assert "Reference reference" in page
    assert "measured at 1 and 3; 0 is the image as it is" in page
