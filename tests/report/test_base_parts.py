"""A run against its base on the page: what the gates say, also from night to night, and the images that changed, with their pictures."""

import re

import numpy as np
import pytest
from made_runs import make_nights, make_run
from test_reporting import text_of

import robench
from robench.core.errors import InputError
from robench.data import load_images
from robench.report.image_sources import attacked_pictures, original_pictures, saved_attack_array, side_by_side
from robench.report.night_verdicts import night_verdicts
from robench.report.nights import nights_of
from robench.results.saved_runs import saved_run


def ids_between(n, low, high, seed=0):
    """The images whose place in the draw of `make_run` lies in [low, high)."""
    rank = np.random.default_rng(seed).permutation(n)
    return [k for k in range(n) if low <= rank[k] < high]


def test_the_page_tells_what_fell_and_lists_the_images_that_changed(tmp_path):
    base, new = make_run(tmp_path / "base", robust=0.6), make_run(tmp_path / "new", robust=0.4)
    page = robench.write_report(new, tmp_path / "p.html", base=base, gates="smoke:drop>1%,clean:drop>1%")
    shown, source = text_of(page), page.read_text()
    assert '<p class="verdict bad">Against base a gate fell: smoke:drop&gt;1%' in source
    assert "after smoke linf 8/255: 20 lost, 0 won" in shown
    assert "as they are:" not in shown  # no image changed there
    table = source.split("The list of 20 images")[1].split("</table>")[0]
    assert [int(k) for k in re.findall(r'<th scope="row">(\d+)</th>', table)] == ids_between(100, 40, 60)
    assert table.count("falls to pgd-10: taken for") == 20
    assert "has not the hash that the manifest tells" in shown  # of images that were made up


def test_a_page_against_a_base_that_is_no_match_is_refused_in_one_sentence(tmp_path):
    new = make_run(tmp_path / "new")
    for base, reason in (
        (make_run(tmp_path / "b", n=50), "compared"),
        (tmp_path / "none", "none"),
        (make_run(tmp_path / "c", data="x"), "data set"),
    ):
        with pytest.raises(InputError, match=reason) as caught:
            robench.write_report(new, tmp_path / "p.html", base=base)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="smokes"):
        robench.write_report(new, tmp_path / "p.html", base=make_run(tmp_path / "d"), gates="smokes:drop")
    assert not (tmp_path / "p.html").exists()


def test_gates_without_a_base_must_name_something_of_nights_that_belong_together(tmp_path):
    make_nights(tmp_path / "r", 3)
    with pytest.raises(InputError, match="'smok:drop' names nothing that the last nights have: did you mean 'smoke'"):
        robench.write_report(tmp_path / "r", tmp_path / "p.html", gates="smok:drop")
    with pytest.raises(InputError, match="no two of these"):
        robench.write_report(make_run(tmp_path / "alone"), tmp_path / "p.html", gates="smoke:drop")
    assert not (tmp_path / "p.html").exists()
    robench.write_report(tmp_path / "r", tmp_path / "p.html", gates=["smoke:drop", "flag:*"])


def test_several_bases_and_the_last_of_a_folder_are_compared_as_compare_does(tmp_path):
    nights = make_nights(tmp_path / "r", 4)
    for base, last in ((nights[:3], None), (tmp_path / "r", 2)):
        page = robench.write_report(nights[3], tmp_path / "p.html", base=base, gates="smoke:drop>1%", last=last, force=True)
        tests = len(robench.compare(base, nights[3], gates="smoke:drop>1%", last=last).gates)
        table = page.read_text().split("<caption>What the gates say")[1].split("</table>")[0]
        assert tests == (last or 3)
        assert table.count("<tr") - 1 == tests
        assert f"Against {nights[2].name}" in text_of(page)


def test_pictures_of_changed_images_come_from_the_data_set_and_from_what_was_saved(tmp_path):
    images = load_images("shapes", "test", n=20)
    base = make_run(tmp_path / "base", n=20, robust=0.6, images=images.sha256)
    new = make_run(tmp_path / "new", n=20, robust=0.4, images=images.sha256)
    lost = ids_between(20, 8, 12)
    x = images.pixels(slice(None)).numpy()
    np.save(new / "x_adv.npy", np.clip(x + 0.03, 0, 1).astype(np.float32))
    source = original_pictures(saved_run(new), lost, None)
    assert source.reason == ""
    assert sorted(source.pixels) == lost
    assert all(np.array_equal(source.pixels[k], x[k]) for k in lost)
    attacked = attacked_pictures(saved_run(new), "net.pt", "linf", lost)
    assert all(np.allclose(attacked[k], np.clip(x[k] + 0.03, 0, 1)) for k in lost)
    page = robench.write_report(new, tmp_path / "p.html", base=base).read_text()
    figures = re.findall(r'<figure class="small"><img [^>]*alt="([^"]*)"><figcaption>([^<]*)', page)
    assert [alt for alt, _ in figures] == [f"image {k}, as it is and as it was attacked" for k in lost]
    for k, (_, words) in zip(lost, figures, strict=True):
        assert re.fullmatch(rf"Image {k}, \d \w+\. Lost: falls to pgd-10: taken for \d \w+\.", words)


def test_pictures_of_a_data_set_of_ones_own_are_shown_where_the_user_names_it(tmp_path):
    own = tmp_path / "own.py"
    own.write_text(
        "from robench.data import load_images\n\n\ndef images(split, data_dir):\n"
        "    found = load_images('shapes', split, n=20)\n    return found.x.flip(-1), found.y\n"
    )
    images = load_images(f"{own}:images", "test", n=20)
    runs = [
        make_run(tmp_path / name, n=20, robust=robust, images=images.sha256, data="images")
        for name, robust in (("base", 0.6), ("new", 0.4))
    ]
    assert "opens where --data names it" in text_of(robench.write_report(runs[1], tmp_path / "p.html", base=runs[0]))
    page = robench.write_report(runs[1], tmp_path / "p.html", base=runs[0], data=f"{own}:images", force=True).read_text()
    assert page.count('<figure class="small">') == 4
    other = robench.write_report(runs[1], tmp_path / "p.html", base=runs[0], data="shapes", force=True)
    assert "has not the hash that the manifest tells" in text_of(other)
    with pytest.raises(InputError, match=r"own2\.py"):
        robench.write_report(runs[1], tmp_path / "q.html", base=runs[0], data=f"{tmp_path / 'own2.py'}:images")
    assert not (tmp_path / "q.html").exists()


def test_arrays_and_data_sets_of_a_folder_are_not_believed(tmp_path):
    run = saved_run(make_run(tmp_path / "run", n=20))
    for array in (
        np.zeros((20, 3, 8, 8), np.float64),
        np.zeros((19, 3, 8, 8), np.float32),
        np.zeros((20, 4, 8, 8), np.float32),
        np.zeros(20),
    ):
        np.save(run.folder / "x_adv.npy", array)
        assert saved_attack_array(run, "net.pt", "linf", 20) is None
    np.save(run.folder / "x_adv.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert saved_attack_array(run, "net.pt", "linf", 20) is None
    (run.folder / "x_adv.npy").write_bytes(b"\x93NUMPY no array")
    assert saved_attack_array(run, "net.pt", "linf", 20) is None
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    for name in (f"{tmp_path / 'own.py'}:images", "npz:/etc/passwd", "nothing"):
        other = saved_run(make_run(tmp_path / str(abs(hash(name))), data=name))
        assert "data set of your own" in original_pictures(other, [0], None).reason
    assert not (tmp_path / "ran").exists()


def test_pictures_side_by_side_have_a_gap(tmp_path):
    import io

    from PIL import Image

    black, white = np.zeros((3, 16, 16), np.float32), np.ones((3, 16, 16), np.float32)
    image = Image.open(io.BytesIO(side_by_side([black, white, black])))
    assert image.size == (16 * 3 + 2, 16)
    assert [image.getpixel((k, 3)) for k in (15, 16, 17, 34)] == [(0, 0, 0), (255, 255, 255), (255, 255, 255), (0, 0, 0)]


def test_a_night_in_which_robustness_fell_is_marked_and_told_first(tmp_path):
    nights = make_nights(tmp_path / "r", 4, robust=0.6)
    bad = make_run(tmp_path / "r" / "bad", finished="2026-03-01T00:00:00Z", robust=0.2, seed=3)
    found = nights_of([saved_run(folder) for folder in [*nights, bad]])
    failures = night_verdicts(found, (), 0.05).failures
    assert [folder.name for folder, _ in failures] == ["bad"]
    page = robench.write_report(tmp_path / "r", tmp_path / "p.html")
    assert '<p class="verdict bad">' in page.read_text()
    assert "In the last night a gate failed. net.pt in bad: smoke at linf eps 8/255 fell from 60.00 to 20.00 %" in text_of(page)
    assert page.read_text().count('<path class="failed"') == 1  # in the chart of smoke, and not in that of the clean accuracy
    make_run(tmp_path / "r" / "after", finished="2026-03-02T00:00:00Z", robust=0.2, seed=3)
    again = robench.write_report(tmp_path / "r", tmp_path / "p.html", force=True)
    assert "No gate failed in the last night; the latest that did was in bad, 2026-03-01." in text_of(again)


def test_nights_that_cannot_be_compared_are_shown_without_a_verdict(tmp_path):
    folders = make_nights(tmp_path / "r", 3)
    (folders[1] / "samples.csv").write_text("sample\n")
    nights = nights_of([saved_run(folder) for folder in folders])
    for gates, reason in (
        ((), "night-001 is shown without a verdict: .*nothing but its head"),
        (["nothing:drop"], "nothing:drop names nothing"),
    ):
        judged = night_verdicts(nights, gates, 0.05)
        assert judged.failures == {}
        assert re.search(reason, " ".join(judged.notes))
    assert "3 runs" in text_of(robench.write_report(tmp_path / "r", tmp_path / "p.html"))
