"""Stand-ins answer like the model, in logits and in gradients; what cannot be treated is left alone; the model stays as it was."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

from robench.core.errors import InputError
from robench.core.model_calls import freeze_model
from robench.models import stand_ins as passes
from robench.models.stand_ins import (
    StandIn,
    arithmetic,
    channels_last_stand_in,
    cheaper_stand_in,
    compiled_stand_in,
    fitting_batch_size,
    folded_model,
    logits_and_input_gradient,
)


class Block(nn.Module):
    """Convolution, batch norm, linear layer and batch norm, with code between the layers."""

    def __init__(self, convolutions=1, branch=False):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.again = nn.Conv2d(8, 8, 3, padding=1)
        self.fc, self.bn1, self.head = nn.Linear(8, 12), nn.BatchNorm1d(12, affine=False), nn.Linear(12, 5)
        self.branch = branch

    def forward(self, x):
        h = self.conv(x)
        h = torch.tanh(self.bn(h) + (h if self.branch else 0))
        h = torch.tanh(self.again(h)).mean((2, 3))
        return self.head(torch.tanh(self.bn1(self.fc(h))))


class Twice(nn.Module):
    """One convolution called twice, with a batch norm of its own behind each call."""

    def __init__(self):
        super().__init__()
        self.first, self.conv = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1)
        self.bn0, self.bn1, self.bn2 = nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x):
        h = torch.tanh(self.bn1(self.conv(self.bn0(self.first(x)))))
        return self.bn2(self.conv(h)).mean((2, 3))


class Forked(nn.Module):
    """Control flow that hangs on the data: no graph of it can be traced."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        h = self.bn(self.conv(x))
        return (h if h.sum() > 0 else 2 * h).mean((2, 3))


class Hungry(nn.Module):
    """Runs out of memory above a batch size, and remembers the sizes that it was asked for."""

    def __init__(self, most):
        super().__init__()
        self.most, self.sizes = most, []

    def forward(self, x):
        self.sizes.append(len(x))
        if len(x) > self.most:
            raise torch.OutOfMemoryError("no memory left")
        return x.flatten(1)[:, :3]


def ready(network):
    """The network in eval mode, with statistics, scales and shifts that are not those of a new one."""
    g = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, passes.BATCH_NORMS):
            module.running_mean += torch.rand(module.running_mean.shape, generator=g) - 0.5
            module.running_var += torch.rand(module.running_var.shape, generator=g)
            if module.affine:
                module.weight.data += torch.rand(module.weight.shape, generator=g)
                module.bias.data += torch.rand(module.bias.shape, generator=g) - 0.5
    return network.eval()


@pytest.fixture
def x():
    return torch.rand(20, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def wins(monkeypatch):
    """Lets every candidate win its race, which is not run."""
    monkeypatch.setattr(passes, "time_share", lambda candidate, current, x: 0.5)


def same(a, b, x, tolerance=1e-5):
    """Whether two models give the same logits and the same gradients."""
    return all(
        torch.allclose(mine, theirs, atol=tolerance * float(theirs.abs().max()))
        for mine, theirs in zip(logits_and_input_gradient(a, x), logits_and_input_gradient(b, x), strict=True)
    )


def test_a_folded_model_has_no_batch_norm_and_the_same_logits_and_gradients(x):
    model = ready(Block())
    network, notes = folded_model(model, x)
    assert notes == ["batch norm folded into 2 layers"]
    assert not any(isinstance(module, passes.BATCH_NORMS) for module in network.modules())
    assert same(network, model, torch.rand(7, 3, 8, 8))


def test_folding_by_hand_gives_the_folded_weights():
    conv, norm = nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1, eps=0.0)
    conv.weight.data.fill_(3.0)
    norm.running_mean.fill_(1.0)
    norm.running_var.fill_(4.0)
    norm.weight.data.fill_(5.0)
    norm.bias.data.fill_(7.0)
    network, _ = folded_model(nn.Sequential(conv, norm, nn.Flatten()).eval(), torch.rand(4, 1, 2, 2))
    assert network[0].weight.item() == pytest.approx(5 * 3 / 2)  # gain 5, deviation 2
    assert network[0].bias.item() == pytest.approx(7 - 5 * 1 / 2)


def test_a_convolution_that_feeds_something_else_too_keeps_its_batch_norm(x):
    model = ready(Block(branch=True))
    network, notes = folded_model(model, x)
    assert notes == ["batch norm folded into 1 layer"]
    assert isinstance(network.bn, nn.BatchNorm2d)
    assert isinstance(network.bn1, nn.Identity)
    assert same(network, model, x)


def test_a_convolution_that_is_called_twice_keeps_its_batch_norms(x):
    model = ready(Twice())
    network, notes = folded_model(model, x)
    assert notes == ["batch norm folded into 1 layer"]
    assert [type(module) for module in (network.bn0, network.bn1, network.bn2)] == [nn.Identity, nn.BatchNorm2d, nn.BatchNorm2d]
    assert same(network, model, x)


def test_a_batch_norm_under_two_names_is_folded_under_both(x):
    model = ready(Block())
    model.before = model.bn
    network, _ = folded_model(model, x)
    assert isinstance(network.bn, nn.Identity)
    assert isinstance(network.before, nn.Identity)
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_a_model_with_control_flow_on_its_data_stays_unfolded_with_a_note(x):
    model = ready(Forked())
    network, notes = folded_model(model, x)
    assert network is model
    assert "cannot be traced" in notes[0]


def test_batch_norm_without_statistics_is_not_folded(x):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten()).eval()
    assert folded_model(model, x) == (model, ["batch norm is not folded: none follows a convolution or linear layer directly"])


def test_a_model_that_reads_the_weights_of_its_batch_norm_stays_unfolded(x):
    class Reader(Block):
        def forward(self, x):
            return super().forward(x) * self.bn.weight.sum()

    model = ready(Reader())
    network, notes = folded_model(model, x)
    assert network is model
    assert "not folded" in notes[0]


def test_a_folded_model_that_disagrees_is_not_used(x, monkeypatch):
    model = ready(Block())
    monkeypatch.setattr(passes, "fold_batch_norms", lambda network, names: network.head.weight.data.mul_(1.001))
    assert folded_model(model, x) == (model, ["batch norm is not folded: the folded model gives other logits or gradients"])


def test_the_users_model_stays_as_it_was(x, wins):
    model = ready(Block())
    model.conv.bias_of_mine = "kept"
    model.fc.weight.requires_grad_(False)
    before, modules = copy.deepcopy(model.state_dict()), list(model.modules())
    flags = [parameter.requires_grad for parameter in model.parameters()]
    strides = [parameter.stride() for parameter in model.parameters()]
    stand_in, _ = cheaper_stand_in(model, x)
    logits_and_input_gradient(stand_in, x)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert [parameter.stride() for parameter in model.parameters()] == strides
    assert all(a is b for a, b in zip(model.modules(), modules, strict=True))
    assert not any(parameter.grad is not None for parameter in model.parameters())
    assert stand_in.exact is model


def test_a_stand_in_is_frozen_together_with_its_exact_model_and_both_come_back(x, wins):
    model = ready(Block())
    stand_in, _ = cheaper_stand_in(model, x)
    assert not any(module.training for module in stand_in.modules())
    model.train()
    with freeze_model(stand_in):
        assert not any(module.training for module in (*stand_in.modules(), *model.modules()))
        assert not any(parameter.requires_grad for parameter in (*stand_in.parameters(), *model.parameters()))
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_channels_last_gives_the_same_logits_and_a_gradient_that_can_be_viewed(x, wins):
    model = ready(Block())
    stand_in, notes = channels_last_stand_in(StandIn(model, model), x)
    assert notes == ["memory format channels_last, 0.50 of the time"]
    assert same(stand_in, model, x)
    leaf = x.clone().requires_grad_()
    hidden = []
    handle = stand_in.network.conv.register_forward_hook(lambda module, inputs, output: hidden.append(output))
    (grad,) = torch.autograd.grad(stand_in(leaf).sum(), leaf)
    handle.remove()
    assert hidden[0].is_contiguous(memory_format=torch.channels_last)
    assert grad.is_contiguous()
    grad.view(len(x), -1)


def test_channels_last_is_left_out_where_it_loses_its_race_or_there_is_no_convolution(x, monkeypatch, problem):
    monkeypatch.setattr(passes, "time_share", lambda candidate, current, x: 0.97)
    stand_in = StandIn(ready(Block()), ready(Block()))
    assert channels_last_stand_in(stand_in, x) == (stand_in, [])
    assert channels_last_stand_in(stand_in, x, wanted=True)[0].channels_last
    dense = problem("dense")
    assert cheaper_stand_in(dense.model.eval(), dense.x, channels_last=True) == (dense.model, [])


def test_a_model_that_views_its_activations_keeps_its_memory_format(x, wins):
    class View(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return self.conv(x).view(len(x), -1)

    model = View().eval()
    assert cheaper_stand_in(model, x) == (model, ["channels_last is not used: the model cannot take it (RuntimeError)"])


def test_nothing_to_gain_gives_the_model_itself(x, monkeypatch):
    monkeypatch.setattr(passes, "time_share", lambda candidate, current, x: 1.0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()).eval()
    assert cheaper_stand_in(model, x) == (model, [])


def test_bf16_returns_float32_logits_near_the_models_and_asks_fp32_for_the_truth(x, wins):
    model = ready(Block())
    stand_in, notes = cheaper_stand_in(model, x, precision="bf16", channels_last=False)
    logits, grad = logits_and_input_gradient(stand_in, x)
    assert logits.dtype == grad.dtype == torch.float32
    assert 1e-5 < (logits - model(x)).abs().max() / model(x).abs().max() < 0.1
    assert stand_in.exact is model
    assert any("rougher" in note for note in notes)


def test_bf16_that_does_not_pay_is_used_and_the_note_says_so(x, monkeypatch):
    monkeypatch.setattr(passes, "time_share", lambda candidate, current, x: 1.8)
    _, notes = cheaper_stand_in(ready(Block()), x, precision="bf16")
    assert notes[-1] == "bf16 takes 1.80 of the time of fp32: it does not pay here"


@pytest.mark.parametrize(
    ("precision", "sentence"), [("tf32", "needs a CUDA device"), ("fp16", "unknown precision"), ("bf61", "did you mean 'bf16'")]
)
def test_a_precision_that_cannot_be_had_is_an_input_error(x, precision, sentence):
    with pytest.raises(InputError, match=sentence):
        cheaper_stand_in(ready(Block()), x, precision=precision)


def settings():
    """Every setting of torch that rounds float32 products."""
    b = torch.backends
    return [part.fp32_precision for part in (b.cuda.matmul, b.cudnn.conv, b.cudnn.rnn, b.mkldnn.matmul, b.mkldnn.conv, b.mkldnn.rnn)]


def in_full_float32():
    """Checks the settings of fp32, and leaves it by an error."""
    with arithmetic("fp32"):
        assert settings() == ["ieee"] * 6
        assert torch.backends.cuda.matmul.allow_tf32 is torch.backends.cudnn.allow_tf32 is False
        raise KeyError


@pytest.mark.parametrize("mixed", [False, True])
def test_fp32_is_full_float32_and_the_callers_settings_come_back(mixed):
    start = settings()
    try:
        torch.set_float32_matmul_precision("medium")
        if mixed:  # torch raises when the older switches are read now
            torch.backends.cuda.matmul.fp32_precision = "ieee"
        before = settings()
        assert "bf16" in before
        with arithmetic("tf32"):
            assert settings()[:3] == ["tf32"] * 3
            with pytest.raises(KeyError):
                in_full_float32()
            assert settings()[:3] == ["tf32"] * 3
        assert settings() == before
    finally:
        torch.set_float32_matmul_precision("highest")
        for part, value in zip((torch.backends.cuda.matmul, torch.backends.mkldnn.matmul), (start[0], start[3]), strict=True):
            part.fp32_precision = value
    assert settings() == start


def test_the_exact_model_of_tf32_computes_in_fp32_whatever_is_around_it(x, monkeypatch):
    class Spy(Block):
        def forward(self, x):
            seen.append(settings()[:3])
            return super().forward(x)

    seen = []
    monkeypatch.setattr(passes, "refuse_precision", lambda precision, device: None)
    stand_in, _ = cheaper_stand_in(ready(Spy()), x, precision="tf32", channels_last=False)
    seen.clear()
    with arithmetic("tf32"):
        stand_in(x)
        stand_in.exact(x)
    assert seen == [["tf32"] * 3, ["ieee"] * 3]


def scripted(model, x):
    with warnings.catch_warnings(action="ignore"):
        return torch.jit.trace(model, x)


def exported(model, x):
    return torch.export.export(model, (x,)).module()


@pytest.mark.parametrize("stored", [scripted, exported])
def test_a_stored_program_is_used_as_it_is(x, stored, wins):
    model = nn.Sequential(nn.Identity(), stored(ready(Block()), x))
    model.training = False
    assert cheaper_stand_in(model, x) == (model, ["the model holds a stored or compiled program: its passes are used as they are"])
    stand_in, _ = cheaper_stand_in(model, x, precision="bf16")
    assert stand_in.network is stand_in.exact is model
    assert stand_in(x).dtype == torch.float32


def test_a_model_with_hooks_is_used_as_it_is(x):
    model = ready(Block())
    model.conv.register_forward_hook(lambda module, inputs, output: output * 2)
    assert cheaper_stand_in(model, x) == (model, ["the model has hooks: its passes are used as they are"])


def test_a_model_that_answers_by_chance_is_used_as_it_is(x):
    class Noisy(Block):
        def forward(self, x):
            return super().forward(x + 0.1 * torch.randn(3, 8, 8))

    model = ready(Noisy())
    stand_in, notes = cheaper_stand_in(model, x)
    assert stand_in is model
    assert "other logits when it is asked again" in notes[0]


def test_a_model_that_is_still_training_is_refused(x):
    with pytest.raises(ValueError, match="eval mode"):
        cheaper_stand_in(Block().train(), x)


def test_on_the_cpu_nothing_is_compiled(x, monkeypatch, problem):
    monkeypatch.setattr(torch, "compile", None)
    dense = problem("dense")
    model, notes = cheaper_stand_in(dense.model.eval(), dense.x, compile=True)
    assert model is dense.model
    assert notes == ["not compiled: on the CPU it rarely pays beside the other ways"]


def test_a_compilation_that_fails_falls_back_with_a_note(x, monkeypatch):
    def broken(network, **options):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", broken)
    stand_in = StandIn(ready(Block()), ready(Block()))
    assert compiled_stand_in(stand_in, x) == (stand_in, ["not compiled: torch.compile failed (RuntimeError)"])


@pytest.mark.parametrize(("share", "kept"), [(0.6, True), (1.4, False)])
def test_a_compiled_model_is_kept_only_where_it_wins(x, monkeypatch, share, kept):
    monkeypatch.setattr(torch, "compile", lambda network, **options: network)
    monkeypatch.setattr(passes, "time_share", lambda candidate, current, x: share)
    model = ready(Block())
    first = StandIn(model, model)
    stand_in, notes = compiled_stand_in(first, x)
    assert (stand_in is not first) == kept
    assert stand_in.exact is model
    assert notes == ["compiled, 0.60 of the time" if kept else "not compiled: it takes 1.40 of the time"]


def test_a_compiled_model_that_disagrees_is_not_used(x, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda network, **options: nn.Sequential(network, nn.Softmax(1)))
    stand_in = StandIn(ready(Block()), ready(Block()))
    assert compiled_stand_in(stand_in, x) == (stand_in, ["not compiled: the compiled model gives other logits or gradients"])


def test_a_race_tells_the_quicker_model(x, problem, monkeypatch):
    class Repeated(nn.Module):
        def __init__(self, network, times):
            super().__init__()
            self.network, self.times = network, times

        def forward(self, x):
            return sum(self.network(x) for _ in range(self.times))

    monkeypatch.setattr(passes, "RACE_SECONDS", 0.05)
    network = ready(Block())
    assert passes.time_share(Repeated(network, 1), Repeated(network, 8), x) < 0.6
    assert passes.time_share(Repeated(network, 8), Repeated(network, 1), x) > 1.6


def test_the_fitting_batch_stays_below_where_memory_ends(x, monkeypatch):
    model = Hungry(100)
    monkeypatch.setattr(passes, "pass_seconds", lambda model, batch: float(model(batch).shape[0] > 0))  # every pass takes a second
    assert fitting_batch_size(model, x, "cpu", most=10**6) == 64
    assert max(model.sizes) == 128


def test_the_fitting_batch_goes_down_where_the_first_one_does_not_fit(x, monkeypatch):
    monkeypatch.setattr(passes, "pass_seconds", lambda model, batch: float(model(batch).shape[0] > 0))
    assert fitting_batch_size(Hungry(5), x, "cpu") == 4
    with pytest.raises(InputError, match="single image"):
        fitting_batch_size(Hungry(0), x, "cpu")


@pytest.mark.parametrize(
    ("cost", "batch"),
    [(lambda n: 1.0 + n / 256, 1000), (lambda n: n * 1.0, 16), (lambda n: n * (1 + n / 50), 16), (lambda n: 64 + n, 1000)],
)
def test_the_fitting_batch_doubles_while_images_per_second_rise(x, monkeypatch, cost, batch):
    monkeypatch.setattr(passes, "pass_seconds", lambda model, batch: cost(len(batch)))
    found = fitting_batch_size(nn.Identity(), x, "cpu", most=1000)
    rates = {n: n / cost(n) for n in (16, 32, 64, 128, 256, 512, 1000)}
    assert found == batch
    assert rates[found] >= 0.95 * max(rates.values())


def test_short_passes_are_doubled_also_where_their_rate_stays(x, monkeypatch):
    monkeypatch.setattr(passes, "pass_seconds", lambda model, batch: len(batch) * 1e-4)
    assert fitting_batch_size(nn.Identity(), x, "cpu", most=10**6) == 256


def test_the_fitting_batch_is_never_larger_than_the_data(x):
    assert fitting_batch_size(ready(Block()), x, "cpu", most=9) <= 9


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["resnet20_standard", "resnet2b", "wong2020_fgsm"])
def test_trained_models_keep_their_logits_and_gradients(zoo, name):
    model = getattr(zoo, name)()
    shape = (1, 28, 28) if name == "wong2020_fgsm" else (3, 32, 32)
    x = torch.rand(16, *shape, generator=torch.Generator().manual_seed(0))  # on other noise a ReLU near 0 may flip
    stand_in, notes = cheaper_stand_in(model, x, channels_last=True)
    assert passes.agrees_with_model(stand_in, model, x)
    assert ("batch norm folded into 19 layers" in notes) == (name == "resnet20_standard")
