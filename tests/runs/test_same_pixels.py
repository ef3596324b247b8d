"""The same pixels everywhere: a corruption, a probe, an attack of the same images, seed and options, whatever command asks for it.

Corruptions and probes that ask no model give the same pixels to the bit, whatever the batch size and the number of models; attacks, and
probes that the model leads, do where they see the same batch. What is compared are the images that models are shown.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from commandline import robench
from PIL import Image
from recording import normed, plain, seen_by

import robench as python
from robench.core.draws import Draws
from robench.core.recipes import function_from_file, parse_recipe, resolve
from robench.corruptions import CORRUPTIONS
from robench.data import load_images
from robench.probes import PROBES

N, SEED = 12, 3
CODE = """
import torch
from robench.core.types import AttackResult, Level

def dusk(x, severity, draws, *, grain=0.05):
    noise = draws.child("dusk", severity).normal(tuple(x.shape[1:]))
    return (x * (1 - 0.1 * severity) + grain * noise).clamp(0, 1)

def salt(model, x, y, draws, *, share=0.05):
    for repeat in range(2):
        hit = draws.child("salt", repeat).uniform(tuple(x.shape[2:])) < share
        changed, one = torch.where(hit[:, None], 1.0, x), torch.ones_like(y)
        with torch.no_grad():
            fooled = model(changed).argmax(1) != y
        yield Level(f"share={share}", repeat, changed, fooled, hit.flatten(1).float().mean(1), one, 0 * one)

def noisy(model, x, y, threat, draws):
    x_adv = threat.project(x, x + threat.eps * draws.child("noisy").signs(tuple(x.shape[1:])))
    with torch.no_grad():
        fooled = model(x_adv).argmax(1) != y
    one = torch.ones_like(y)
    return AttackResult(x_adv, fooled, one, one, 0 * one, fooled & False)
"""
OURS = (
    "gaussian_noise,severity=3",
    "glass_blur,severity=2",
    "frost,severity=4",
    "elastic_transform,severity=1",
    "jpeg_compression,severity=5",
)
OWN = "mine.py:dusk,severity=2"
FREE = ("random-noise,t=0.1", "random-noise-2,k=40", "random-occlusion,count=3,radius=2,colour=grey", "mine.py:salt,share=0.1")
LED = ("inductive-noise,t=0.05", "inductive-occlusion,count=3,radius=2,colour=grey")
ATTACKS = {
    "pgd-10": ("l2", 3),
    "apgd-ce,steps=5": ("linf", "32/255"),
    "square,queries=40": ("linf", "32/255"),
    "mine.py:noisy": ("linf", "32/255"),
}
MODELS = ("plain", "normed")


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch, no_pictures):
    """A folder with the models, the user's code and frost photos; no picture is drawn."""
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text("from recording import normed, plain\n")
    Path("mine.py").write_text(CODE)
    Path("photos").mkdir()
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        Image.fromarray(rng.integers(0, 256, (220, 240, 3), dtype=np.uint8)).save(f"photos/{name}.png")


@pytest.fixture(scope="module")
def images():
    return load_images("shapes", "test", n=N)


def shown(*words):
    """What models are shown during a call of the command line."""
    fixed = ["--data", "shapes", "--n", N, "--seed", SEED, "--quiet"]
    return seen_by(lambda: robench(*words, *fixed, "--out", f"out-{len(list(Path().glob('out-*')))}"))


def in_python(function, *words, **options):
    """What models are shown during a call from Python."""
    return seen_by(lambda: function(*words, seed=SEED, **options))


def keys(x):
    """What `shown` would have of images (B, C, H, W)."""
    return {image.contiguous().numpy().tobytes() for image in x}


def made(sentence, images, **options):
    """The images of a corruption or the first draw of a probe without a model, by its function alone, (N, C, H, W)."""
    recipe = parse_recipe(sentence)
    x, ids = images.pixels(slice(None)).float(), images.ids
    x = x if x.max() <= 1 else x / 255
    given = dict(recipe.options)
    if recipe.name in CORRUPTIONS or "dusk" in recipe.name:
        severity = given.pop("severity")
        function = function_from_file(recipe.name) if ".py:" in recipe.name else CORRUPTIONS[recipe.name]
        mine = {key: value for key, value in options.items() if ".py:" not in recipe.name and (key != "photos" or recipe.name == "frost")}
        return function(x, severity, Draws(SEED, ids, "corrupt"), **given, **mine)
    function = resolve(recipe, PROBES, "probe")
    return next(iter(function(plain().eval(), x, images.y, Draws(SEED, ids, recipe.label)))).x


# corruptions


@pytest.mark.parametrize("how", ["auto", "imagenet and photos"])
def test_a_corruption_gives_the_same_pixels_in_every_command(images, how):
    usual = {} if how == "auto" else {"scale": "imagenet", "photos": "photos"}
    expected = {sentence: keys(made(sentence, images, **usual)) for sentence in (*OURS, OWN)}
    assert len(set.union(*expected.values())) == N * len(expected)
    options = [] if how == "auto" else ["--scale", "imagenet", "--frost-dir", "photos"]
    written = [said(sentence, usual) for sentence in expected]  # with all that is not the usual in the recipe itself
    net, other = "net.py:plain", "net.py:normed"
    found = {
        "eval": shown("eval", net, "--suite", ",".join(expected), *options),
        "eval, two models, small batches": shown("eval", net, other, "--suite", ",".join(written), "--batch-size", 7),
        "attack": set.union(*(shown("attack", net, "--attack", one) for one in written)),
        "saliency": shown("saliency", net, "--score", "gini", "--against", ",".join(written), "--batch-size", 6),
        "corrupt": shown("corrupt", net, other, "--corruption", ",".join(expected), *options, "--batch-size", 9),
        "source": shown("eval", net, "--suite", ",".join(f"fgsm on {one}" for one in expected), *options),
        "source of a source": shown("eval", net, "--suite", ",".join(f"fgsm on brightness,severity=1 on {one}" for one in written)),
        "source against": shown("saliency", net, "--score", "gini", "--against", ",".join(f"fgsm on {one}" for one in written)),
        "Python evaluate": in_python(python.evaluate, plain(), images, suite=list(expected), batch_size=4, **usual),
        "Python corrupt": in_python(python.corrupt, plain(), images, corruptions=list(expected), **usual),
        "Python saliency": in_python(python.saliency, plain(), images, scores="gini", against=written),
    }  # fmt: skip
    missing = {place: [one for one, wanted in expected.items() if not wanted <= seen] for place, seen in found.items()}
    assert not {place: some for place, some in missing.items() if some}


def said(sentence, usual):
    """A recipe of a corruption with the options that hold for all of a call."""
    if ".py:" in sentence:
        return sentence
    return ",".join([sentence, *(f"{key}={value}" for key, value in usual.items() if key != "photos" or sentence.startswith("frost"))])


@pytest.mark.parametrize("how", ["auto", "imagenet and photos"])
def test_an_export_has_the_same_pixels(images, how):
    usual = {} if how == "auto" else {"scale": "imagenet", "photos": "photos"}
    options = [] if how == "auto" else ["--scale", "imagenet", "--frost-dir", "photos"]
    names = [sentence.partition(",")[0] for sentence in OURS]
    fixed = ["--data", "shapes", "--n", N, "--seed", SEED, "--quiet"]
    robench("corrupt", "--corruption", ",".join(names), "--export", "set", *options, *fixed)
    for name in names:
        array = torch.from_numpy(np.load(f"set/{name}.npy")).movedim(3, 1)
        for severity in (1, 4):
            wanted = made(f"{name},severity={severity}", images, **usual)
            rows = array[(severity - 1) * N : severity * N]
            assert torch.equal(rows.float() / 255, wanted), (name, severity)
    again = seen_by(lambda: robench("corrupt", "net.py:plain", "--from", "set", "--out", "read", "--quiet"))
    measured = seen_by(
        lambda: robench("corrupt", "net.py:plain", "--corruption", ",".join(names), "--export", "both", *options, *fixed, "--out", "made")
    )
    for name in names:
        assert keys(made(f"{name},severity=5", images, **usual)) <= again & measured
        assert Path(f"set/{name}.npy").read_bytes() == Path(f"both/{name}.npy").read_bytes()


# probes


def test_a_probe_that_asks_no_model_gives_the_same_pixels_in_every_command(images):
    expected = {sentence: keys(made(sentence, images)) for sentence in FREE}
    net, other, all_of = "net.py:plain", "net.py:normed", ",".join(FREE)
    found = {
        "eval": shown("eval", net, "--suite", all_of),
        "eval, two models, small batches": shown("eval", net, other, "--suite", all_of, "--batch-size", 7),
        "attack": set.union(*(shown("attack", net, "--attack", one, "--batch-size", 3) for one in FREE)),
        "saliency": shown("saliency", net, "--score", "gini", "--against", all_of, "--batch-size", 6),
        "saliency, two models": shown("saliency", other, net, "--score", "gini", "--against", all_of),
        "source": shown("eval", net, "--suite", ",".join(f"fgsm on {one}" for one in FREE)),
        "Python evaluate": in_python(python.evaluate, plain(), images, suite=list(FREE), batch_size=4),
        "Python probe": in_python(python.probe, plain(), images, recipes=list(FREE)),
        "Python saliency": in_python(python.saliency, plain(), images, scores="gini", against=list(FREE)),
    }
    missing = {place: [one for one, wanted in expected.items() if not wanted <= seen] for place, seen in found.items()}
    assert not {place: some for place, some in missing.items() if some}


@pytest.mark.parametrize("model", MODELS)
def test_a_probe_that_the_model_leads_gives_the_same_pixels_where_it_sees_the_same_batch(images, model):
    build = {"plain": plain, "normed": normed}[model]
    x = images.pixels(slice(None)).float()
    x = x if x.max() <= 1 else x / 255
    right = build().eval()(x).argmax(1) == images.y
    expected = {}
    for sentence in LED:
        recipe = parse_recipe(sentence)
        level = next(iter(resolve(recipe, PROBES, "probe")(build().eval().requires_grad_(False), x[right], images.y[right],
                                                           Draws(SEED, images.ids[right], recipe.label))))  # fmt: skip
        expected[sentence] = keys(level.x)
    net, all_of = f"net.py:{model}", ",".join(LED)
    found = {
        "eval": shown("eval", net, "--suite", all_of),
        "eval, two models": shown("eval", "net.py:plain", "net.py:normed", "--suite", all_of),
        "attack": set.union(*(shown("attack", net, "--attack", one) for one in LED)),
        "saliency": shown("saliency", net, "--score", "gini", "--against", all_of),
        "source": shown("eval", net, "--suite", ",".join(f"saliency on {one}" for one in LED)),
        "Python evaluate": in_python(python.evaluate, build(), images, suite=list(LED)),
        "Python probe": in_python(python.probe, build(), images, recipes=list(LED)),
        "Python saliency": in_python(python.saliency, build(), images, scores="gini", against=list(LED)),
    }
    missing = {place: [one for one, wanted in expected.items() if not wanted <= seen] for place, seen in found.items()}
    assert not {place: some for place, some in missing.items() if some}


# attacks


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("on", ["", " on fog,severity=2", " on random-noise,t=0.05"])
def test_an_attack_gives_the_same_pixels_where_it_sees_the_same_batch(images, model, on):
    build = {"plain": plain, "normed": normed}[model]
    for attack, (norm, eps) in list(ATTACKS.items())[:: 3 if on else 1]:  # in l2 the last bits of a gradient are seen
        threat, how = ["--norm", norm, "--eps", eps], {"norm": norm, "eps": eps, "prepare": True}
        one = attack + on
        net = f"net.py:{model}"
        shown("eval", net, "--suite", one, *threat, "--save")
        adv = np.load(f"out-{len(list(Path().glob('out-*'))) - 1}/x_adv.npy")
        shown("attack", net, "--attack", one, *threat, "--save")
        assert np.array_equal(adv, np.load(f"out-{len(list(Path().glob('out-*'))) - 1}/x_adv.npy"))
        python.evaluate(build(), images, suite=[one], save="python.npy", seed=SEED, **how)
        assert np.array_equal(adv, np.load("python.npy"))
        with torch.no_grad():
            wrong = build().eval()(torch.from_numpy(adv)).argmax(1) != images.y
        fallen = keys(torch.from_numpy(adv)[wrong])
        assert fallen, attack
        found = {
            "two models": shown("eval", "net.py:plain", "net.py:normed", "--suite", one, *threat),
            "saliency": shown("saliency", net, "--score", "gini", "--against", one, *threat),
            "method": shown("eval", net, "--suite", f"saliency on {one}", *threat),
            "Python attack": in_python(python.attack, build(), images, recipe=one, **how),
            "Python saliency": in_python(python.saliency, build(), images, scores="gini", against=one, **how),
        }
        assert not [place for place, seen in found.items() if not fallen <= seen]
        darker = shown("eval", net, "--suite", f"brightness,severity=1 on {one}", *threat)
        wanted = CORRUPTIONS["brightness"](torch.from_numpy(adv), 1, Draws(SEED, images.ids, "corrupt"))
        assert keys(wanted) <= darker
