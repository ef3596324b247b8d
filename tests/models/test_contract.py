"""Models that break the contract: each is measured as its twin that keeps it, or refused in one sentence; and runs that memory ends."""

import json

import pytest
import torch
from commandline import read, refused, robench
from torch import nn

from robench import evaluate
from robench.core.errors import InputError
from robench.core.recipes import parse_recipe
from robench.models import load_with_origin
from robench.models.contract import examine_model

SHAPE = (1, 8, 8)
SIZES = {"classes": 3, "shape": SHAPE}
HEAD = "import torch\nfrom torch import nn\n"


def network(outputs: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, outputs)).eval()


class Wrapped(nn.Module):
    """A network between a change of its input and a change of its output."""

    def __init__(self, before=lambda x: x, after=lambda logits: logits) -> None:
        super().__init__()
        self.network, self.before, self.after = network(), before, after

    def forward(self, x):
        return self.after(self.network(self.before(x)))


class InPlace(nn.Module):
    """The network on normalised pixels; it normalises the caller's own images, or a new tensor."""

    def __init__(self, copies: bool) -> None:
        super().__init__()
        self.network, self.copies = network(), copies

    def forward(self, x):
        x = x.clone() if self.copies else x
        return self.network(x.sub_(0.5).div_(0.25))


def images(n: int = 40):
    x = torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return x, InPlace(copies=True)(x).argmax(1)


def only(sizes) -> nn.Module:
    """The network where the batch has one of the sizes, an error elsewhere."""

    def before(x):
        if not sizes(len(x)):
            raise RuntimeError(f"cannot view a batch of {len(x)}")
        return x

    return Wrapped(before)


def test_a_model_that_changes_its_images_is_measured_as_the_one_that_does_not():
    x, y = images()
    kept = x.clone()
    results = [
        evaluate(InPlace(copies), x, y, suite=[parse_recipe("pgd-10"), parse_recipe("square,queries=200")], eps=0.1, examine=True)
        for copies in (True, False)
    ]
    assert torch.equal(x, kept)
    assert [row.value for row in results[0].rows if row.metric == "accuracy"] == [
        row.value for row in results[1].rows if row.metric == "accuracy"
    ]
    assert [line.broken_by for line in results[0].samples] == [line.broken_by for line in results[1].samples]
    assert results[0].flags == results[1].flags
    assert not [note for note in results[0].notes if "in place" in note]
    assert [note for note in results[1].notes if "changes its images in place: it is given copies" in note]


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        (lambda n: n % 2 == 0, "fails on a batch of 1 .RuntimeError: cannot view a batch of 1.: batches are filled up to a multiple of 2 "),
        (lambda n: n > 1, "filled up to a multiple of 2 "),
        (lambda n: n == 32, "and takes 32: it is given 32 at a time, filled up with copies"),
        (lambda n: n == 1, "fails on a batch of 3 .*and takes 1: it is given 1 at a time"),
    ],
)
def test_a_model_of_few_batch_sizes_gets_batches_that_it_takes(sizes, sentence):
    x, _ = images(37)
    seen = examine_model(only(sizes), x)
    assert len(seen.notes) == 1
    with pytest.raises(AssertionError, match=sentence):
        raise AssertionError(seen.notes[0])
    torch.testing.assert_close(seen.model(x), network()(x))
    leaf = x.clone().requires_grad_()
    seen.model(leaf).sum().backward()
    own = x.clone().requires_grad_()
    network()(own).sum().backward()
    torch.testing.assert_close(leaf.grad, own.grad)


def test_a_model_that_keeps_the_contract_stays_itself():
    x, _ = images()
    model = network()
    seen = examine_model(model, x)
    assert seen.model is model
    assert seen.notes == ()
    assert not seen.checks[0].raised


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (
            only(lambda n: n == 33),
            "cannot take images of shape",
        ),
        (Wrapped(after=lambda z: (100 * z).long()), "returns int64 numbers: logits must be floating-point"),
        (Wrapped(after=lambda z: z > 0), "returns bool numbers"),
        (Wrapped(after=lambda z: z.tolist()), "returns list, not one tensor"),
        (Wrapped(after=lambda z: z[:, :0]), "returns 0 output for each image"),
        (Wrapped(after=lambda z: z[:, 0]), r"turns images \(1, 1, 8, 8\) into an output \(1,\)"),
    ],
)
def test_what_no_copy_can_mend_is_refused_with_the_reason(model, sentence):
    x, y = images()
    with pytest.raises(InputError, match=sentence):
        evaluate(model, x, y, suite="smoke")


def test_a_model_that_disables_gradients_is_measured_and_they_are_enabled_after_each_call():
    def off(x):
        torch.set_grad_enabled(False)
        return x

    x, y = images()
    found = evaluate(Wrapped(off), x, y, suite="smoke", eps=0.1, examine=True)
    assert torch.is_grad_enabled()
    assert [note for note in found.notes if "disables gradients for the whole process" in note]
    assert [flag for flag in found.flags if "the logits have no gradient with respect to the images" in flag]


@pytest.mark.parametrize("attack", ["pgd-10", "apgd-ce", "fab"])
def test_gradients_that_are_nan_under_an_attack_are_a_flag(attack):
    x, y = images()
    nan = Wrapped(after=lambda z: torch.where(z > 1e9, z * torch.nan, z))  # finite, but 0 * NaN backwards
    told = f"{attack}: the input gradient of the loss is NaN or infinite in places, which count as 0: the attack may be blind there"
    assert told in evaluate(nan, x, y, suite=[parse_recipe(attack)], eps=0.1).flags
    assert told not in evaluate(network(), x, y, suite=[parse_recipe(attack)], eps=0.1).flags


# modes


class Stubborn(nn.Module):
    """Dropout of one half behind a `train` of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.network, self.dropout = network(), nn.Dropout(0.5)

    def forward(self, x):
        return self.network(self.dropout(x))


class ReturnsNothing(Stubborn):
    def train(self, mode=True):
        super().train(mode)


class TakesNoMode(Stubborn):
    def train(self):  # as many hand-written wrappers have it
        return super().train(True)


class AlwaysTrains(Stubborn):
    def train(self, mode=True):
        return super().train(True)


@pytest.mark.parametrize("kind", [ReturnsNothing, TakesNoMode, AlwaysTrains])
def test_a_train_of_the_users_own_does_not_keep_a_model_out_of_eval_mode(kind):
    x, _ = images()
    model = kind()
    y = network()(x).argmax(1)
    found = evaluate(model, x, y, suite=[], eps=0.01, examine=True)
    assert found.accuracy("clean") == 1
    assert found.flags == [
        "clean: 1 of 1 modules that depend on it came in training mode: measured here in eval mode; call model.eval() where you use it"
    ]
    assert "randomised" not in {check.name for check in found.checks if check.raised}
    assert model.dropout.training  # as it came


class Switching(nn.Module):
    """Batch norm that its own forward puts into training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.network = nn.BatchNorm2d(1), network()

    def forward(self, x):
        self.norm.train()
        return self.network(self.norm(x))


def test_training_mode_that_forward_switches_on_is_a_flag_and_no_sentence_says_eval_mode():
    x, y = images()
    model = Switching()
    found = evaluate(model, x, y, suite=[])
    raised = {check.name: check.sentence for check in found.checks if check.raised}
    assert raised["trains_in_forward"].startswith("1 of 1 modules that depend on the mode run in training mode although")
    assert "measured here in eval mode" not in raised["train_mode"]
    assert float(model.norm.running_mean) == 0  # the statistics are those it came with
    assert int(model.norm.num_batches_tracked) == 0


def test_the_flag_reaches_the_manifest_of_every_command(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        HEAD + "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n        torch.manual_seed(0)\n"
        "        self.norm, self.last = nn.BatchNorm2d(3), nn.Linear(3072, 10)\n"
        "    def forward(self, x):\n        self.norm.train()\n        return self.last(self.norm(x).flatten(1))\n"
    )
    for words in (
        ["eval", "--suite", "smoke"],
        ["attack", "--attack", "random-noise"],
        ["saliency"],
        ["corrupt", "--severity", 1, "--corruption", "fog"],
    ):
        command, *options = words
        out = tmp_path / f"{command}{len(options)}"
        result = robench(command, f"{file}:Net", "--data", "shapes", "--n", 20, "--out", out, "--quiet", *options)
        assert result.stderr.count("Flag: clean: 1 of 1 modules that depend on the mode run in training mode") == 1
        manifest = json.loads((out / "manifest.json").read_text())
        assert [flag for flag in manifest["flags"] if "run in training mode" in flag]
        assert not [flag for flag in manifest["flags"] if "ran code" in flag]
        assert "mine.py:Net ran code of the user's" in manifest["notes"]


# weights that are not there, outputs that move


def test_lazy_and_meta_weights_are_refused_in_one_sentence_or_filled_in(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        HEAD + "def lazy():\n    return nn.Sequential(nn.Flatten(), nn.LazyLinear(3))\n"
        "def meta():\n    with torch.device('meta'):\n        return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))\n"
    )
    with pytest.raises(InputError, match=r"lazy has lazy layers whose weights are not there yet .first 1.weight."):
        load_with_origin(f"{file}:lazy", **SIZES)
    with pytest.raises(InputError, match=r"meta has weights on the meta device, which have no values .first 1.weight."):
        load_with_origin(f"{file}:meta", **SIZES)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    torch.save(plain.state_dict(), tmp_path / "net.pth")
    x, _ = images()
    assert torch.equal(load_with_origin(tmp_path / "net.pth", arch=f"{file}:lazy", **SIZES).model(x), plain(x))
    with pytest.raises(InputError, match="meta device"):
        load_with_origin(tmp_path / "net.pth", arch=f"{file}:meta", **SIZES)
    for made in (nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), plain.to("meta")):
        with pytest.raises(InputError, match=r"the model has (lazy layers|weights on the meta)"):
            evaluate(made, x, torch.zeros(len(x)).long(), suite=[])


def test_a_second_answer_that_differs_is_noted():
    x, _ = images()
    torch.manual_seed(3)
    model, before = Wrapped(after=lambda z: z + torch.rand_like(z)), torch.get_rng_state()
    assert "other logits when it is asked again about the same images (up to " in examine_model(model, x).notes[0]
    assert torch.equal(torch.get_rng_state(), before)


def test_a_model_compiled_by_its_owner_passes_the_diagnostics():
    x, y = images()
    from torch._functorch import config

    before = config.donated_buffer
    try:
        config.donated_buffer = True
        found = evaluate(torch.compile(network(), backend="aot_eager"), x, y, suite=["fgsm"], examine=True, eps=0.1)
        assert [note for note in found.notes if "compiled anew so that its graphs can be used twice" in note]
        assert "zero_gradient" in {check.name for check in found.checks if not check.raised}
    finally:
        config.donated_buffer = before
        torch._dynamo.reset()


def test_a_model_without_gradients_says_so_before_an_attack_needs_them():
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            raise NotImplementedError("no backward here")

    x, _ = images()
    assert (
        "no gradient can be taken from the model (NotImplementedError: no backward here)"
        in examine_model(Wrapped(Broken.apply), x).notes[0]
    )


# the model is left as it was


def test_buffers_modes_flags_and_place_of_a_model_come_back():
    x, y = images()
    model = Switching().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    objects = [id(tensor) for tensor in (*model.parameters(), *model.buffers())]
    evaluate(model, x, y, suite="smoke", eps=0.1)
    assert [id(tensor) for tensor in (*model.parameters(), *model.buffers())] == objects
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


# memory


HUNGRY = (
    HEAD + "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n        torch.manual_seed(0)\n"
    "        self.last = nn.Linear(3072, 10)\n    def forward(self, x):\n"
    "        if len(x) > LIMIT and x.requires_grad:\n"
    "            raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB')\n"
    "        return self.last(x.flatten(1))\n"
)


def test_a_run_that_memory_ends_names_the_batch_size_and_goes_on_with_a_smaller_one(tmp_path):
    file, out = tmp_path / "mine.py", tmp_path / "out"
    file.write_text(f"LIMIT = 24\n{HUNGRY}")
    words = ["attack", f"{file}:Net", "--data", "shapes", "--n", 300, "--attack", "pgd-10", "--quiet"]
    sentence = refused(*words, "--batch-size", 300, "--out", out)
    assert "hold a batch of 300 images: pass a --batch-size below 300; what is finished is kept: --resume goes on with it" in sentence
    assert list(out.glob("state-*.jsonl"))
    robench(*words, "--batch-size", 20, "--out", out, "--resume")
    robench(*words, "--batch-size", 20, "--out", tmp_path / "once")
    verdicts = [[(line["sample"], line["broken_by"]) for line in read(folder / "samples.csv")] for folder in (out, tmp_path / "once")]
    assert verdicts[0] == verdicts[1]


@pytest.mark.parametrize(
    "words",
    [
        ["saliency", "--method", "saliency"],
        ["attack", "--attack", "inductive-noise"],
        ["corrupt", "--severity", 1, "--corruption", "fog"],
    ],
)
def test_memory_that_ends_is_one_sentence_in_every_command(tmp_path, words):
    command, *options = words
    file = tmp_path / "mine.py"
    file.write_text(f"LIMIT = 30\n{HUNGRY}".replace(" and x.requires_grad", ""))
    sentence = refused(command, f"{file}:Net", "--data", "shapes", "--n", 60, "--batch-size", 60, "--out", tmp_path / "out", *options)
    assert "the memory does not hold a batch of 60 images: pass a --batch-size below 60" in sentence


def test_a_model_that_never_fits_is_refused_when_it_is_loaded(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(f"LIMIT = 2\n{HUNGRY}".replace(" and x.requires_grad", ""))
    with pytest.raises(InputError, match="the memory of cpu does not hold 17 images"):
        load_with_origin(f"{file}:Net", classes=10, shape=(3, 32, 32))
