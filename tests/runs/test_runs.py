"""One run of stages on images for models: chains of stages, the ledger, several models, and a run that is broken off."""

from dataclasses import asdict, replace
from itertools import compress

import numpy as np
import pytest
import torch
from changes import changed
from torch import nn

from robench import evaluate
from robench.core.errors import InputError
from robench.core.inputs import as_suite_list
from robench.core.recipes import parse_recipe
from robench.core.rows import blank_row
from robench.core.threat import Threat
from robench.evaluation.corruption_sources import only_adds
from robench.evaluation.measure import as_run_options, measure_models
from robench.evaluation.plans import RunRequest, stages_of
from robench.results.scores import all_subject_scores
from robench.runs.execution import execute
from robench.runs.ledger import Ledger
from robench.runs.pools import images_from_arrays, pool_of_images
from robench.runs.types import Subject, untracked_chunks

FOG = "fog,severity=3"
MIXED = (
    "pgd-10",
    "apgd-ce",
    "random-noise,t=0.1,repeats=2",
    "fog,severity=2",
    "saliency",
    "pgd-10 on fog,severity=2",
    "saliency on pgd-10",
)
LINF = Threat("linf", 0.01)


@pytest.fixture
def p(problem):
    """A small network on images as large as corruptions need, a few of them with another label than it gives."""
    found = problem("convolutional", n=20, shape=(3, 32, 32))
    return replace(found, y=torch.where(torch.arange(20) % 7 == 3, (found.y + 1) % 10, found.y))


def other(seed=1):
    """A second network on the same images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(3072, 16), nn.Tanh(), nn.Linear(16, 10)).eval()


def subjects(*models):
    return [Subject(model, replace(blank_row(), checkpoint=name)) for name, model in zip("abc", models, strict=False)]


def run(models, p, chosen, *, scores=("gini",), save=None, **how):
    images = images_from_arrays(p.x, p.y)
    asked = RunRequest(as_suite_list(list(chosen)), [LINF], scores=[parse_recipe(score) for score in scores])
    return measure_models(subjects(*models), images, asked, as_run_options(**how), save=save)


def lines(found):
    """The rows of a measurement, without seconds."""
    return [asdict(row) for row in found.rows if row.metric != "seconds"]


def same(some, others):
    assert [str(one) for one in some] == [str(one) for one in others]


def table(found, kind="samples"):
    some = found.tables[kind]
    return [str(asdict(line)) for line in some] if isinstance(some, list) else {name: list(map(str, cells)) for name, cells in some.items()}


# chains


def test_an_attack_on_fog_is_the_attack_of_the_fogged_images(p):
    fogged = changed(FOG, p.model, p.x, p.y).x(torch.arange(20))
    chained = run([p.model], p, [f"pgd-10 on {FOG}"])
    alone = run([p.model], replace(p, x=fogged), ["pgd-10"])
    table = chained.tables["samples"]
    assert set(table["images"]) == {"fog-3"}
    names = [name.partition(" ")[0] for name in table["broken_by"]]
    one = list(zip(table["label"], names, table["step"], strict=True))
    two = [(line.label, line.broken_by, line.step) for line in alone.samples]
    right = [line.broken_by != "clean" for line in alone.samples]
    assert 0 < sum(right) < 20
    assert list(compress(one, right)) == list(compress(two, right))
    accuracy = [row.value for row in chained.rows if row.metric == "accuracy" and row.probe.startswith("pgd-10")]
    assert accuracy == [alone.accuracy("pgd-10")]
    with torch.no_grad():
        assert right == (p.model(fogged).argmax(1) == p.y).tolist()


def test_a_probe_on_a_corruption_is_the_probe_of_the_corrupted_images(p):
    fogged = changed(FOG, p.model, p.x, p.y).x(torch.arange(20))
    chained = run([p.model], p, [f"random-noise,t=0.1,repeats=3 on {FOG}"])
    alone = run([p.model], replace(p, x=fogged), ["random-noise,t=0.1,repeats=3"])
    rates = [next(row for row in found.rows if row.metric == "error_rate") for found in (chained, alone)]
    assert (rates[0].value, rates[0].n) == (rates[1].value, rates[1].n)
    one, two = (
        [(line.sample, line.fooled, line.changed_share) for line in found.samples if line.probe != "clean"] for found in (chained, alone)
    )
    assert one == two
    assert 0 < rates[0].n < 20


def test_a_corruption_of_what_an_attack_found_is_that_of_its_images(p, tmp_path):
    evaluate(p.model, p.x, p.y, suite=["pgd-10"], eps=LINF.eps, save=tmp_path / "x_adv.npy")
    x_adv = torch.from_numpy(np.load(tmp_path / "x_adv.npy"))
    fogged = changed(FOG, p.model, x_adv, p.y).x(torch.arange(20))
    chained = run([p.model], p, [f"{FOG} on pgd-10"])
    with torch.no_grad():
        pred = p.model(fogged).argmax(1)
    assert [int(label) for label in chained.samples["pred_3"][20:]] == pred.tolist()
    assert not torch.equal(x_adv, p.x)


def test_a_corruption_of_a_corruption_is_one_after_the_other(p):
    first = changed(FOG, p.model, p.x, p.y).x(torch.arange(20))
    twice = changed("contrast,severity=2", p.model, first, p.y).x(torch.arange(20))
    chained = run([p.model], p, [f"contrast,severity=2 on {FOG}"])
    with torch.no_grad():
        assert [int(label) for label in chained.samples["pred_2"][20:]] == p.model(twice).argmax(1).tolist()


def test_a_corruption_of_changed_images_has_rows_of_its_own_and_is_in_no_mean(p):
    plain, both = run([p.model], p, [FOG, "contrast,severity=3"]), run([p.model], p, [FOG, "contrast,severity=3", f"{FOG} on pgd-10"])
    cells = {(row.probe, row.metric): row.value for row in both.rows}
    assert cells["fog on pgd-10", "accuracy"] < cells["fog", "accuracy"]
    same([line for line in lines(both) if line["probe"] != "fog on pgd-10" and "/" not in line["metric"]], lines(plain))


@pytest.mark.parametrize("change", [FOG, "random-noise,t=0.1", "pgd-10"])
def test_the_gini_of_changed_images_is_that_of_these_images_handed_over(p, change):
    made = changed(change, p.model, p.x, p.y, eps=LINF.eps)
    chained = run([p.model], p, [f"saliency on {change}"])
    alone = run([p.model], replace(p, x=made.x(made.places), y=p.y[made.places]), ["saliency"])
    table, plain = chained.samples, alone.samples
    assert 0 < len(made.places) < 20
    assert table["sample"] == made.places.tolist()
    torch.testing.assert_close(torch.tensor(table["gini"]), torch.tensor(plain["gini"]), rtol=1e-5, atol=1e-6)


def test_scores_are_set_against_a_chain_of_stages_too(p):
    chained = f"{FOG} on pgd-10"
    asked = RunRequest(
        as_suite_list(["saliency"]), [LINF], against=[parse_recipe("pgd-10"), parse_recipe(chained)], scores=[parse_recipe("gini")]
    )
    found = measure_models(subjects(p.model), images_from_arrays(p.x, p.y), asked, as_run_options())
    table, alone = found.samples, run([p.model], p, [f"saliency on {chained}"]).samples
    mine = [place for place, images in enumerate(table["images"]) if images == "fog-3 on pgd-10"]
    assert 0 < len(mine) < 20
    assert [table["gini"][place] for place in mine] == alone["gini"]
    assert {"fallen_pgd-10", "fallen_fog-3 on pgd-10"} < set(table)


def test_no_image_changes_what_was_not_tried(p):
    for change in ("pgd-10", "random-noise,t=0.1"):
        made = changed(change, p.model, p.x, p.y)
        wrong = (~made.tried).nonzero().flatten()
        assert len(wrong)
        assert torch.equal(made.x(wrong), p.x[wrong])
        assert torch.equal(made.x(torch.arange(20))[made.places], made.x(made.places))


# the ledger


def ran(p, chosen, models=None, **how):
    images = images_from_arrays(p.x, p.y)
    asked = RunRequest(as_suite_list(list(chosen)), [LINF], scores=[parse_recipe("gini")])
    settled = as_run_options(**how)
    return execute(subjects(*(models or [p.model])), pool_of_images(images), stages_of(asked, images, settled), settled)


def told(ledger, found):
    """All that a ledger knows of the stages of a run, seconds as they add up."""
    known = {}
    for case in found.cases:
        for stage in found.stages:
            for level, record in ledger.levels(case.name, stage).items():
                columns = {name: str(list(values)) for name, values in record.columns.items()}
                known[case.name, stage.key, level] = (columns, sorted(map(str, record.extras)), round(record.seconds, 9))
    return known


def test_entries_in_any_order_and_twice_give_the_same_ledger(p):
    found = ran(p, MIXED, batch_size=6)
    entries = found.cases[0].store.journal.added
    assert len(entries) > 20
    for order in (range(len(entries)), reversed(range(len(entries))), [*range(0, len(entries), 2), *range(len(entries))]):
        ledger = Ledger(p.y)
        for place in order:
            ledger.add(entries[place])
        assert told(ledger, found) == told(found.ledger, found)


# several models


def test_each_of_several_models_gets_the_rows_that_it_gets_alone(p):
    both = run([p.model, other()], p, MIXED, batch_size=7)
    for place in (0, 1):
        alone = measure_models(
            subjects(p.model, other())[place : place + 1], images_from_arrays(p.x, p.y),
            RunRequest(as_suite_list(list(MIXED)), [LINF], scores=[parse_recipe("gini")]), as_run_options(batch_size=7),
        )  # fmt: skip
        mine = [line for line in lines(both) if line["checkpoint"] == "ab"[place] and not line["metric"].startswith("error_rate_shared")]
        same(mine, lines(alone))


def test_images_that_all_models_share_are_made_once(p):
    images, settled = images_from_arrays(p.x, p.y), as_run_options(batch_size=8)
    stages = stages_of(RunRequest(as_suite_list([FOG]), [LINF]), images, settled)
    made = []

    def counted(places, before):
        made.append(places.tolist())
        return stages[1].images(places, before)

    begun = []

    def track(chunks, what, told=lambda: None):
        begun.append((what, len(made)))
        return untracked_chunks(chunks, what, told)

    fog = replace(stages[1], images=counted)
    execute(subjects(p.model, other(), other(2)), pool_of_images(images), [stages[0], fog], replace(settled, track=track))
    (before,) = [count for what, count in begun if what.startswith("fog")]
    assert made[before:] == [list(range(8)), list(range(8, 16)), list(range(16, 20))]


def whole(*_, **__):
    raise AssertionError("the images were begun")


def few(classes=3):
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, classes)).eval()


@pytest.mark.parametrize(
    ("recipe", "model", "sentence"),
    [
        ("pgd-10", few(), "out of range"),
        ("fog", few(), "out of range"),
        ("random-noise,t=0.1", few(1), "returns 1 output"),
        ("saliency", nn.Sequential(other(), nn.Softmax(1)).eval(), "probabilities"),
        ("grad-cam", other(), "layer"),
        ("random-noise,k=100000", other(), "is more than the"),
        ("OWN:attack", other(), "no robench.core.types.AttackResult"),
        ("OWN:method", other(), "must return float maps"),
        ("saliency on OWN:probe", other(), "it must"),
        ("pgd-10 on OWN:corruption", other(), "corruption"),
    ],
)
def test_a_stage_that_one_of_two_models_cannot_have_is_refused_before_the_first_image(p, tmp_path, recipe, model, sentence):
    (tmp_path / "own.py").write_text(
        "def attack(model, x, y, threat, draws):\n    return x\n\ndef method(model, x, target, draws):\n    return 0\n\n"
        "def probe(model, x, y, draws):\n    return x\n\ndef corruption(x, severity, draws):\n    return 2.0\n"
    )
    recipe = recipe.replace("OWN", str(tmp_path / "own.py"))
    with pytest.raises(InputError, match=sentence):
        run([p.model, model], p, ["fgsm", recipe], track=whole)
    with pytest.raises(InputError, match=sentence):
        run([model, p.model], p, [recipe, "fgsm"], track=whole, folder=tmp_path / "run")
    assert not list(tmp_path.rglob("*.jsonl"))


# a run that is broken off


class BrokenOffError(Exception):
    """What a kill looks like inside the process."""


def breaking(after):
    """A track that ends the run after so many chunks."""
    seen = [0]

    def track(chunks, what, told=lambda: None):
        for chunk in chunks:
            if seen[0] == after:
                raise BrokenOffError
            seen[0] += 1
            yield chunk

    return track


@pytest.mark.parametrize("places", [(1,), (4, 9), (12,), (17, 20, 23), (26,)])
def test_a_run_of_all_kinds_that_is_broken_off_goes_on_to_the_same_rows_and_samples(p, tmp_path, places):
    unbroken = run([p.model, other()], p, MIXED, batch_size=9)
    resume, done = False, 0
    for place in places:
        with pytest.raises(BrokenOffError):
            run([p.model, other()], p, MIXED, batch_size=9, folder=tmp_path, resume=resume, track=breaking(place - done))
        resume, done = True, place
    again = run([p.model, other()], p, MIXED, batch_size=9, folder=tmp_path, resume=True)
    same(lines(again), lines(unbroken))
    for kind in unbroken.tables:
        assert table(again, kind) == table(unbroken, kind)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state-0.jsonl"]


def test_a_finished_run_takes_up_stages_that_need_its_images_again(p, tmp_path):
    first = ["pgd-10", "fog on pgd-10"]
    asked = [RunRequest(as_suite_list(chosen), [LINF], scores=[parse_recipe("gini")]) for chosen in (first, [*first, "saliency on pgd-10"])]
    images = images_from_arrays(p.x, p.y)
    measure_models(subjects(p.model), images, asked[0], as_run_options(folder=tmp_path))
    more = measure_models(subjects(p.model), images, asked[1], as_run_options(folder=tmp_path, resume=True), adds=only_adds)
    at_once = measure_models(subjects(p.model), images, asked[1], as_run_options())
    same(lines(more), lines(at_once))
    with pytest.raises(InputError, match="state of another run"):
        measure_models(subjects(p.model), images, asked[1], as_run_options(folder=tmp_path, resume=True, seed=1), adds=only_adds)


@pytest.mark.parametrize("how", [{"until": 0.2}])
def test_a_run_that_stops_early_speaks_of_the_images_that_it_has_seen_in_all_tables(p, how):
    found = run([p.model], p, ["pgd-10", "random-noise,t=0.1", "fog,severity=2", "saliency"], batch_size=4, **how)
    seen = int(found.run.ledger.seen.sum())
    assert 0 < seen <= 20
    clean = next(row for row in found.rows if (row.probe, row.metric) == ("clean", "accuracy"))
    assert clean.n == seen == len(found.tables["samples"])
    assert len(found.tables["samples-methods"]["gini"]) == seen
    assert len(found.tables["samples-corruptions"]["pred_2"]) == 2 * seen
    ids = {line.sample for line in found.tables["samples"]}
    assert ids == set(found.tables["samples-methods"]["sample"]) == {line.sample for line in found.tables["samples-probes"]}


def test_a_gallery_has_the_maps_and_the_images_of_the_places_that_it_shows(p, tmp_path):
    found = run([p.model], p, ["saliency", "saliency on pgd-10"], folder=tmp_path, batch_size=6)
    (audit,) = all_subject_scores(found.run)
    clean, changed_ones = audit.methods
    assert len(audit.gallery_places) == 8
    assert set(audit.gallery_places) <= set(clean.maps)
    made = changed("pgd-10", p.model, p.x, p.y, eps=LINF.eps)
    for place, x in changed_ones.x.items():
        assert torch.equal(x, made.x(torch.tensor([place]))[0])
    assert changed_ones.x.keys() == changed_ones.maps.keys()


def test_a_run_with_a_budget_that_is_broken_off_keeps_the_images_that_it_has_seen(p, tmp_path):
    with pytest.raises(BrokenOffError):
        run([p.model], p, ["pgd-10", FOG], batch_size=2, budget=1e6, folder=tmp_path, track=breaking(26))
    again = run([p.model], p, ["pgd-10", FOG], batch_size=2, budget=1e-9, folder=tmp_path, resume=True)
    seen = again.run.ledger.seen
    kept = int(seen.sum())
    assert 10 < kept < 20
    assert any(f"the budget ended after {kept} of the 20 chosen images" in note for note in again.notes)
    whole = run([p.model], p, ["pgd-10", FOG], batch_size=2, budget=1e6, folder=tmp_path, resume=True)
    same(lines(whole), lines(run([p.model], p, ["pgd-10", FOG], batch_size=2, budget=1e6)))


def test_images_of_two_models_of_one_name_are_not_saved(p, tmp_path):
    twins = [replace(one, about=replace(one.about, checkpoint="a")) for one in subjects(p.model, other())]
    with pytest.raises(InputError, match="several models are called 'a'"):
        measure_models(
            twins, images_from_arrays(p.x, p.y), RunRequest(as_suite_list(["fgsm"]), [LINF]), as_run_options(), save=tmp_path / "x.npy"
        )
    assert not list(tmp_path.iterdir())
