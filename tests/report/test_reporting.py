"""Pages of finished runs: which are taken, what they show, and how quickly."""

import json
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
from made_runs import EPS, make_nights, make_run, share_row

import robench
from robench.core.errors import InputError
from robench.report.charts import AxisMarks, ChartLine, ChartPoint, line_chart, round_ticks
from robench.report.nights import history_words, night_labels, nights_of, version_events
from robench.report.reporting import ReportOptions, gathered_runs, report_parts
from robench.results.saved_runs import saved_run


def text_of(path):
    """The text of a page without its tags."""
    body = re.sub(r"<(style|script)>.*?</\1>", "", Path(path).read_text(), flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", body))


def test_a_run_that_is_named_is_read_and_others_below_a_folder_are_taken_or_named(tmp_path):
    one, two = make_run(tmp_path / "r" / "one"), make_run(tmp_path / "r" / "deep" / "two", name="b.pt", finished="2026-10-01T00:00:00Z")
    (tmp_path / "r" / "going").mkdir()
    (tmp_path / "r" / "going" / "state-0.jsonl").write_text("{}\n")
    cut = make_run(tmp_path / "r" / "cut")
    (cut / "rows.csv").write_text((cut / "rows.csv").read_text()[:-3])
    found, left_out = gathered_runs([tmp_path / "r", one])
    assert [run.folder for run in found] == [two, one]  # in order of their end, each once
    assert sorted(entry.folder.name for entry in left_out) == ["cut", "going"]
    shown = text_of(robench.write_report(tmp_path / "r", tmp_path / "p.html"))
    assert "2 runs of 2 models, from 2026-10-01 to 2026-11-01" in shown
    assert "cut short" in shown
    assert "unfinished run" in shown
    with pytest.raises(InputError, match="cut short"):
        gathered_runs([cut])
    with pytest.raises(InputError, match="unfinished run"):
        gathered_runs([tmp_path / "r" / "going"])


def test_what_cannot_be_reported_or_written_is_refused_in_one_sentence(tmp_path):
    run, other = make_run(tmp_path / "run"), make_run(tmp_path / "b")
    (tmp_path / "empty").mkdir()
    for words, reason in (
        ({"runs": tmp_path / "none"}, "no folder"), ({"runs": tmp_path / "empty"}, "no finished run"), ({"out": tmp_path}, "is a folder"),
        ({"out": run / "report.html"}, "lies in the results folder of a run"),
        ({"columns": "nothing", "runs": [run, other]}, "no run has"),
        ({"published": tmp_path / "empty"}, "holds no JSON"), ({"alpha": 0.0}, "alpha"), ({"gates": "smoke"}, "cannot read the gate"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=reason) as caught:
            robench.write_report(**{"runs": run, "out": tmp_path / "p.html"} | words)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "p.html").exists()
    robench.write_report(run, tmp_path / "p.html")
    with pytest.raises(InputError, match="--force"):
        robench.write_report(run, tmp_path / "p.html")
    robench.write_report([run, other], tmp_path / "p.html", force=True)
    assert "2 runs of 1 model" in text_of(tmp_path / "p.html")


def test_one_run_begins_with_its_verdict_and_shows_its_flags_tables_and_manifest(tmp_path):
    run = make_run(tmp_path / "run", flags=["the gradients are zero"], clean=0.9, robust=0.6)
    shown = text_of(robench.write_report(run, tmp_path / "p.html"))
    first = shown.index("90.00 % of 100 images are classified correctly as they are, 60.00 % stand after smoke linf 8/255")
    main = shown[first:]
    places = [main.index(words) for words in ("1 flag was raised", "the gradients are zero", "pgd-10", "What was measured", "device")]
    assert places == sorted(places)
    assert "95 % interval 50.2\u201369.1" in shown  # Wilson's for 60 of 100


def test_the_leaderboard_marks_ties_where_intervals_overlap(tmp_path):
    for name, robust in (("best", 0.6), ("near", 0.55), ("far", 0.1)):
        make_run(tmp_path / "r" / name, name=name, robust=robust, n=1000, clean=0.9)
    page = robench.write_report(tmp_path / "r", tmp_path / "p.html").read_text()
    rows = re.findall(r"<tr><th scope=\"row\">(\w+)</th>(.*?)</tr>", page.split('data-name="leaderboard"')[1].split("</table>")[0])
    assert [name for name, _ in rows] == ["best", "near", "far"]
    tags = [re.findall(r'class="tag[^"]*">(\w+)<', cells) for _, cells in rows]
    assert tags == [["tie", "tie"], ["tie", "tie"], ["tie"]]  # all have one clean accuracy
    assert '<td class="number" data-order="0.6">' in page


def test_nights_of_one_model_make_a_history_with_versions(tmp_path):
    folders = make_nights(tmp_path / "r", 6)
    for folder in folders[3:]:
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["versions"]["torch"] = "2.15.0"
        (folder / "manifest.json").write_text(json.dumps(manifest) + "\n")
    make_run(tmp_path / "r" / "other", name="other.pt")
    make_run(tmp_path / "r" / "more", n=200)  # of other images: no night of the six
    nights = nights_of([saved_run(folder) for folder in [*folders[::-1], tmp_path / "r" / "other", tmp_path / "r" / "more"]])
    assert [run.folder for some in nights for run in some.runs] == folders
    assert version_events(nights[0]) == {0.0: "robench 0.1.0", 3.0: "torch 2.15.0"}
    page = robench.write_report(tmp_path / "r", tmp_path / "p.html").read_text()
    assert page.count("<svg viewBox") == 2  # clean and smoke
    assert "6 nights from 2026-01-01 to 2026-01-06" in page
    assert ">torch 2.15.0</text>" in page


def test_corruptions_are_a_heat_map_and_radii_a_curve(tmp_path):
    fog = share_row("net.pt", 100, "fog", 37, metric="mean_accuracy")
    small = replace(share_row("net.pt", 100, "smoke", 80, "linf"), eps=EPS / 2)
    make_run(tmp_path / "r" / "a", more=[fog, small])
    make_run(tmp_path / "r" / "b", name="b.pt")
    page = robench.write_report(tmp_path / "r", tmp_path / "p.html").read_text()
    assert '<td class="number shade-4" data-order="0.37">37.0</td>' in page
    assert "net.pt, n = 100: 90.0 % at 0, 80.0 % at 4/255, 60.0 % at 8/255" in page


def test_published_rows_stand_beside_those_of_the_user_and_are_marked(tmp_path):
    make_run(tmp_path / "r" / "a", name="mine.pt", data="cifar10")
    folder = tmp_path / "model_info" / "cifar10" / "Linf"
    folder.mkdir(parents=True)
    info = {"name": "Theirs<b>", "dataset": "cifar10", "clean_acc": "84.5", "autoattack_acc": "51.2", "eps": "8/255", "venue": "x"}
    (folder / "Theirs2020.json").write_text(json.dumps(info))
    page = robench.write_report(tmp_path / "r", tmp_path / "p.html", published=tmp_path / "model_info").read_text()
    assert '<tr class="published"><th scope="row">' in page
    assert "published by RobustBench" in page
    assert "<b>" not in page.split("<main")[1].split("<script>")[0]


EVIL = '<img src=x onerror="alert(1)">\u202e</script>&'


def test_names_and_sentences_of_a_folder_are_text(tmp_path):
    def report(name, folder):
        for k in range(2):
            make_run(folder / f"{k} {name.replace('/', '')}", name=name, flags=[name], finished=f"2026-01-0{k + 1} {name}", versions={
                "torch": f"{k} {name}"})  # fmt: skip
        return robench.write_report(folder, folder / "page.html").read_text()

    plain, evil = report("plain", tmp_path / "a"), report(EVIL, tmp_path / "b")
    tags = [re.findall(r"<\w+", re.sub(r"<(style|script)>.*?</\1>", "", page, flags=re.DOTALL)) for page in (plain, evil)]
    assert tags[0] == tags[1]
    assert "onerror=&#34;alert(1)&#34;" in evil


def test_manifests_of_any_shape_make_no_error_but_one_sentence(tmp_path):
    for place, change in enumerate((
        {"flags": "text"}, {"notes": {"a": 1}}, {"versions": ["x"]}, {"checkpoint": 7}, {"checkpoint": [None, {"name": 1}]}, {"words": []},
        {"finished": 5}, {"seconds": "long"}, {"files": [1, "../../x.png", "/etc/passwd.png"]}, {"threat": 3},
        {"corruptions": {"reference": 3}}, {"corruptions": {"reference": {"name": "a", "sha256": 0, "accuracy": {"fog": "x"}}}},
        {"corruptions": 4}, {"data": {"name": "shapes", "split": "test", "n": "many", "sha256": 5, "classes": 7}},
    )):  # fmt: skip
        folder = make_run(tmp_path / "r" / f"{place:02}")
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps(manifest | change) + "\n")
        try:
            robench.write_report(folder, tmp_path / "one.html", force=True)
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017
    robench.write_report(tmp_path / "r", tmp_path / "all.html")


def test_a_report_of_a_hundred_runs_takes_less_than_five_seconds(tmp_path):
    more = [share_row("net.pt", 100, f"level-{k}", k % 100, metric="error_rate", setting=f"t={k}") for k in range(500)]
    make_nights(tmp_path / "r", 100, more=more)  # as many rows as a run of the suite full
    begin = time.process_time()
    robench.write_report(tmp_path / "r", tmp_path / "p.html")
    assert time.process_time() - begin < 5


def test_ticks_are_round_and_enclose_the_numbers():
    assert round_ticks(61.2, 74.9) == [60, 65, 70, 75]
    assert round_ticks(0.7, 0.7)[0] < 0.7 < round_ticks(0.7, 0.7)[-1]
    assert round_ticks(0, 0)[0] < 0 < round_ticks(0, 0)[-1]
    for low, high in ((0, 1), (-3.2, 18), (1e-7, 3e-7), (99.2, 100)):
        ticks = round_ticks(low, high)
        assert ticks[0] <= low
        assert ticks[-1] >= high
        assert 3 <= len(ticks) <= 8


def test_points_of_a_chart_lie_where_their_numbers_are():
    points = [ChartPoint(0, 50, 40, 60, "first"), ChartPoint(1, 100), ChartPoint(2, float("nan")), ChartPoint(3, 0, failed=True)]
    chart = line_chart("a<b", "words", [ChartLine("line", points)], AxisMarks([(k, str(k)) for k in range(4)]), unit="%")
    circles = [tuple(map(float, pair)) for pair in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', chart.drawing)]
    (x0, y0), (x1, y1) = circles
    assert x1 - x0 == pytest.approx((420 - 46 - 14) / 3, abs=0.11)
    assert y1 == pytest.approx(12, abs=0.11)  # 100 % at the top
    assert y0 == pytest.approx((12 + 224) / 2, abs=0.11)
    assert chart.drawing.count('class="failed"') == 1
    assert chart.legend == [("failed", "a gate failed")]
    assert "<title>first</title>" in chart.drawing


def test_the_verdict_of_nights_is_one_sentence_and_a_list_of_whole_sentences(tmp_path):
    make_nights(tmp_path / "r", 3, robust=0.6)
    make_run(tmp_path / "r" / "bad", finished="2026-03-01T00:00:00Z", robust=0.2, seed=3, flags=["something odd"])
    page = robench.write_report(tmp_path / "r", tmp_path / "p.html").read_text()
    assert '<p class="verdict bad">In the last night a gate failed.</p>' in page
    items = re.findall("<li>(.*?)</li>", page.split('<ul class="verdict bad">')[1].split("</ul>")[0])
    assert len(items) == 3
    assert all(item.endswith(".") for item in items)
    assert items[-1] == "1 run raised flags."


def test_headings_count_probes_and_threats_apart_and_name_the_first():
    assert history_words("smoke at linf 8/255") == "smoke at linf 8/255"
    probes, threats = [f"p{k}" for k in range(8)], [f"linf {k}/255" for k in range(1, 8)]
    assert history_words(", ".join(probes)) == "p0, p1, p2 and 5 more probes"
    told = history_words(f"{', '.join(probes)} at {', '.join(threats)}, l2 0.25")
    assert told == "p0, p1, p2 and 5 more probes at linf 1/255, linf 2/255, linf 3/255 and 5 more threats"


def test_nights_of_one_day_are_told_apart_under_the_axis(tmp_path):
    def labels(*ends):
        folder = tmp_path / str(len([*tmp_path.iterdir()]))
        return night_labels([saved_run(make_run(folder / f"night-{k}", finished=end)) for k, end in enumerate(ends)])

    assert labels("2026-11-01T02:17:00Z", "2026-11-02T02:17:00Z") == ["11-01", "11-02"]
    assert labels("2026-11-01T02:17:00Z", "2026-11-01T03:17:00Z") == ["11-01 02:17", "11-01 03:17"]
    assert labels("2026-11-01T02:17:00Z", "2026-11-01T02:17:30Z") == ["night-0", "night-1"]


def test_lines_of_one_model_name_are_counted_as_runs(tmp_path):
    for k in range(3):
        make_run(tmp_path / "r" / str(k), seed=k, finished=f"2026-11-0{k + 1}T00:00:00Z")
    assert "shapes: 3 runs of net.pt" in text_of(robench.write_report(tmp_path / "r", tmp_path / "p.html"))
    make_run(tmp_path / "r" / "b", name="b.pt")
    assert "shapes: 4 runs of 2 models" in text_of(robench.write_report(tmp_path / "r", tmp_path / "p.html", force=True))
    made = [make_run(tmp_path / name, name=name) for name in ("c.pt", "d.pt")]
    assert "shapes: 2 models" in text_of(robench.write_report(made, tmp_path / "p.html", force=True))


def test_the_parts_say_what_was_left_out(tmp_path):
    make_run(tmp_path / "a")
    found, _ = gathered_runs([tmp_path / "a"])
    title, parts = report_parts(found, [], ReportOptions())
    assert title == "smoke of net.pt on shapes test, n = 100, linf eps = 8/255, seed 0"
    assert parts
