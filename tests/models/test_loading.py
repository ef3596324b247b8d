"""Every kind of model file: what is accepted, what is refused, in one sentence, and that nothing runs without trust."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import pickle
import subprocess
import sys
import warnings
import zipfile
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from places import CHECKPOINT
from torch import nn

import robench
from robench.core.errors import InputError
from robench.models import ARCHITECTURES, LoadedModel, build_network, checkpoint_meta, load_with_origin, trial_notes
from robench.models.checkpoint import fingerprint
from robench.models.resnet import wide_resnet

SHAPE = (1, 8, 8)
FITS = {"arch": "mlp,width=6", "classes": 3, "shape": SHAPE}


def network() -> nn.Module:
    torch.manual_seed(0)
    return build_network("mlp,width=6", classes=3, shape=SHAPE).eval()


class Sums(nn.Module):
    """A model whose last step is `change`."""

    def __init__(self, change=lambda logits: logits) -> None:
        super().__init__()
        self.change = change

    def forward(self, x):
        return self.change(torch.stack((x.sum((1, 2, 3)), -x.sum((1, 2, 3))), 1))


class Command:
    """Runs a command when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.command = f"touch {folder}/ran"

    def __reduce__(self):
        return os.system, (self.command,)


def pixels(n: int = 5) -> torch.Tensor:
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(1))


def refused(sentence: str, source, **options) -> None:
    """Asserts that the source is refused with one sentence that matches."""
    with pytest.raises(InputError, match=sentence) as caught:
        load_with_origin(source, **options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def saved(path: Path, content) -> Path:
    torch.save(content, path)
    return path


def exported(path: Path, model: nn.Module, batch: int, dynamic=None, inputs: int = 1) -> Path:
    """A torch.export program of the model, with a fixed batch size or a dynamic one."""
    x = (torch.rand(batch, *SHAPE),) * inputs
    torch.export.save(torch.export.export(model, x, dynamic_shapes=None if dynamic is None else ({0: dynamic},)), path)
    return path


def scripted(path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(network(), pixels(2)), path)
    return path


# state_dicts


@pytest.mark.parametrize("nest", [None, "state_dict", "model_state_dict", "model", "net", "ema"])
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "_orig_mod.", "module._orig_mod.", "model.module.model."])
def test_a_state_dict_loads_at_the_top_or_nested_and_with_wrappers_prefixes(tmp_path, nest, prefix):
    state = {prefix + key: value for key, value in network().state_dict().items()}
    path = saved(tmp_path / "net.pth", state if nest is None else {nest: state, "epoch": 3, "optimizer": {"lr": 0.1}})
    loaded = load_with_origin(path, **FITS)
    assert torch.equal(loaded.model(pixels()), network()(pixels()))
    assert loaded == LoadedModel(
        loaded.model, "net.pth", fingerprint(network().state_dict()), {}, (), (), {"arch": FITS["arch"]}, outputs=3
    )


def test_files_from_before_the_zip_format_load_too(tmp_path):
    torch.save(network().state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(load_with_origin(tmp_path / "old.pth", **FITS).model(pixels()), network()(pixels()))


def test_a_zip_without_checksums_is_not_taken_for_a_damaged_one(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        saved(tmp_path / "net.pth", network().state_dict())
    finally:
        torch.serialization.set_crc32_options(True)
    load_with_origin(tmp_path / "net.pth", **FITS)


def test_a_prefix_is_stripped_only_where_every_name_carries_it(tmp_path):
    state = network().state_dict()
    first, *rest = state
    path = saved(tmp_path / "net.pth", {f"module.{first}": state[first]} | {key: state[key] for key in rest})
    refused(f"lacks {first} and has the unknown module.{first}", path, **FITS)


def test_a_name_that_belongs_to_the_network_is_not_stripped(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.model = nn.Linear(8, 3)\n    def forward(self, x):\n        return self.model(x.mean((1, 2)))\n"
    )
    path = saved(tmp_path / "net.pth", {"module.model.weight": torch.ones(3, 8), "module.model.bias": torch.zeros(3)})
    loaded = load_with_origin(path, arch=f"{tmp_path}/mine.py:Net", classes=3, shape=SHAPE)
    assert torch.equal(loaded.model.model.weight, torch.ones(3, 8))
    assert loaded.notes == ("mine.py:Net ran code of the user's",)  # as where the code is MODEL


def test_the_second_set_of_weights_is_mentioned(tmp_path):
    state = network().state_dict()
    other = {key: value + 1 for key, value in state.items()}
    loaded = load_with_origin(saved(tmp_path / "net.pth", {"ema": other, "model": {"state_dict": state}}), **FITS)
    assert torch.equal(loaded.model(pixels()), network()(pixels()))
    assert loaded.notes[0].startswith("net.pth holds several sets of weights: 'model.state_dict' was taken, not 'ema'; --weights KEY")


def test_the_file_says_how_many_outputs_it_has_where_only_they_differ(tmp_path):
    path = saved(tmp_path / "net.pth", build_network("mlp,width=6", classes=100, shape=SHAPE).state_dict())
    loaded = load_with_origin(path, **FITS)
    assert loaded.model(pixels()).shape[1] == 100
    assert loaded.notes == ("the model has 100 outputs, the data 3 classes: label k is taken for output k, and all 100 outputs compete",)
    refused("^net.pth has 100 outputs, the data 101 classes$", path, **FITS | {"classes": 101})
    refused("lacks 1.bias", saved(tmp_path / "less.pth", {"1.weight": torch.ones(6, 64)}), **FITS)


def test_what_does_not_fit_is_named_with_the_architecture(tmp_path):
    state = network().state_dict()
    path = saved(tmp_path / "net.pth", {key: value for key, value in state.items() if key != "3.bias"})
    refused(r"net.pth does not fit mlp,width=6: it lacks 3.bias$", path, **FITS)
    refused("lacks 3.bias and has other shapes: 1.weight is .6, 64. instead of .7, 64.", path, **FITS | {"arch": "mlp,width=7"})
    refused(
        "does not fit lenet: it lacks conv1.weight, conv1.bias, conv2.weight and 7 more",
        path,
        **FITS | {"arch": "lenet", "shape": (1, 28, 28)},
    )
    refused("has the unknown extra", saved(tmp_path / "more.pth", state | {"extra": torch.ones(1)}), **FITS)


def test_batch_norms_from_before_they_counted_batches_load(tmp_path):
    model = build_network("resnet8", classes=3, shape=SHAPE).eval()
    state = {key: value for key, value in model.state_dict().items() if "num_batches" not in key}
    loaded = load_with_origin(saved(tmp_path / "net.pth", state), **FITS | {"arch": "resnet8"})
    assert torch.equal(loaded.model(pixels()), model(pixels()))


def test_the_block_that_trades_saves_and_never_runs_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "wrn-34-10", partial(wide_resnet, 10, 1))
    state = build_network("wrn-34-10", classes=3, shape=SHAPE).state_dict()
    state |= {f"sub_{key}": value for key, value in state.items() if key.startswith("block1.")}
    sizes = {"arch": "wrn-34-10", "classes": 3, "shape": SHAPE}
    loaded = load_with_origin(saved(tmp_path / "net.pth", {f"module.{key}": value for key, value in state.items()}), **sizes)
    assert set(state) - set(loaded.model.state_dict()) == {key for key in state if key.startswith("sub_block1.")}


def test_weights_alone_need_the_name_of_their_network_and_the_sizes(tmp_path):
    path = saved(tmp_path / "net.pth", network().state_dict())
    refused("holds weights only: name its network with --arch, such as one of mlp, ", path, classes=3, shape=SHAPE)
    refused("give classes and shape", path, arch="mlp")
    refused("unknown architecture 'resnet21': did you mean 'resnet20'", path, **FITS | {"arch": "resnet21"})


def test_normalisation_is_put_before_a_foreign_network(tmp_path):
    loaded = load_with_origin(saved(tmp_path / "net.pth", network().state_dict()), **FITS, mean=(0.5,), std=(0.25,))
    torch.testing.assert_close(loaded.model(pixels()), network()((pixels() - 0.5) / 0.25))


def test_weights_that_are_not_numbers_are_refused(tmp_path):
    for bad in (float("nan"), float("inf")):
        state = network().state_dict()
        state["3.weight"][0, 0] = bad
        refused("NaN or infinite weights .first in 3.weight.", saved(tmp_path / "net.pth", state), **FITS)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3, "optimizer": {}}, {}, {"state_dict": {"a": 1}}, torch.ones(3)])
def test_a_file_without_a_state_dict_says_what_it_holds(tmp_path, content):
    refused("holds no state_dict, but (list|dict|Tensor)", saved(tmp_path / "net.pth", content), **FITS)


def test_safetensors_load_as_a_state_dict(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(network().state_dict(), tmp_path / "net.safetensors")
    (tmp_path / "net.bin").write_bytes((tmp_path / "net.safetensors").read_bytes())
    for name in ("net.safetensors", "net.bin"):
        loaded = load_with_origin(tmp_path / name, **FITS)
        assert torch.equal(loaded.model(pixels()), network()(pixels()))
        assert loaded.sha256 == fingerprint(network().state_dict())
    data = (tmp_path / "net.safetensors").read_bytes()
    (tmp_path / "net.safetensors").write_bytes(data[:-7])
    refused("damaged or no safetensors file", tmp_path / "net.safetensors", **FITS)


def test_safetensors_is_named_with_its_pip_line_where_it_is_absent(tmp_path, monkeypatch):
    (tmp_path / "net.safetensors").write_bytes(b"\x08" + bytes(7) + b"{}      ")
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    refused("pip install safetensors", tmp_path / "net.safetensors", **FITS)


# pickles


def test_a_pickle_that_runs_a_command_is_refused_and_did_not_run(tmp_path):
    evil = Command(tmp_path)
    torch.save({"state_dict": evil}, tmp_path / "zip.pt")
    torch.save({"state_dict": evil}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for protocol in (2, 5):
        (tmp_path / f"plain{protocol}.pt").write_bytes(pickle.dumps(evil, protocol))
    for name in ("zip.pt", "old.pt", "plain2.pt"):
        refused(r"refused: save its state_dict, or pass --trust .* runs code from the file", tmp_path / name, **FITS)
        assert checkpoint_meta(tmp_path / name) == {}
    refused("no file that torch.save wrote", tmp_path / "plain5.pt", **FITS)
    assert not (tmp_path / "ran").exists()
    refused("holds no state_dict, but dict of state_dict", tmp_path / "zip.pt", **FITS, trust=True)
    assert (tmp_path / "ran").exists()  # so the command works, and only trust let it run


def test_a_command_hidden_behind_our_marker_did_not_run_either(tmp_path):
    torch.save({"format": "robench-checkpoint-1", "state": {}, "meta": Command(tmp_path)}, tmp_path / "net.pt")
    refused("holds a pickled model or other code", tmp_path / "net.pt")
    assert checkpoint_meta(tmp_path / "net.pt") == {}
    assert not (tmp_path / "ran").exists()


def test_a_pickled_model_needs_trust_and_says_that_it_was_unpickled(tmp_path):
    for content in (network(), {"model": network().train(), "epoch": 1}):
        path = saved(tmp_path / "whole.pt", content)
        refused("holds a pickled model or other code .torch.nn.modules", path, classes=3, shape=SHAPE)
        loaded = load_with_origin(path, classes=3, shape=SHAPE, trust=True)
        assert torch.equal(loaded.model(pixels()), network()(pixels()))
        assert loaded.notes == ("whole.pt was unpickled, which can run any code",)
        assert not loaded.model.training
        refused("leave --arch out", path, **FITS, trust=True)


def test_trust_is_not_used_where_it_is_not_needed(tmp_path):
    path = saved(tmp_path / "net.pth", network().state_dict())
    assert load_with_origin(path, **FITS, trust=True).notes == ()


def test_a_pickle_of_an_unknown_class_says_so(tmp_path):
    code = b"cno_such_module\nNet\n)\x81."
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02" + code)
        archive.writestr("a/version", "3\n")
        archive.writestr("a/byteorder", "little")
    (tmp_path / "net.pt").write_bytes(buffer.getvalue())
    refused("no_such_module", tmp_path / "net.pt", **FITS)
    refused("cannot be unpickled .ModuleNotFoundError", tmp_path / "net.pt", **FITS, trust=True)


def test_a_state_dict_with_numpy_numbers_beside_it_names_what_is_refused(tmp_path):
    path = saved(tmp_path / "net.pth", {"state_dict": network().state_dict(), "best": np.float64(0.5)})
    refused("multiarray.scalar", path, **FITS)
    assert torch.equal(load_with_origin(path, **FITS, trust=True).model(pixels()), network()(pixels()))


# files that are no models


def test_files_that_are_no_models_are_refused_in_one_sentence(tmp_path):
    generator = np.random.default_rng(0)
    files = {
        "is empty": b"",
        "not a model file that robench knows": b"x" + generator.bytes(1000),
        "it starts with b'hell'": b"hello world",
        "cut off, damaged, or no file": b"\x80\x02" + generator.bytes(1000),
        "is cut off or damaged": b"PK\x03\x04" + generator.bytes(1000),
    }
    for sentence, data in files.items():
        (tmp_path / "net.pt").write_bytes(data)
        refused(sentence, tmp_path / "net.pt", **FITS)
        refused(sentence, tmp_path / "net.pt", **FITS, trust=True)


def test_places_that_are_no_files_are_refused_in_one_sentence(tmp_path):
    refused("is a folder: name a model file in it", tmp_path, **FITS)
    refused("no such model file", tmp_path / "net.pt", **FITS)
    refused("is an architecture without weights", "resnet20", **FITS)
    (tmp_path / "zoo.py").write_text("def net(): ...")
    refused("is a Python file: name the function in it that makes the model, as .*zoo.py:FUNCTION", tmp_path / "zoo.py", **FITS)
    with pytest.raises(InputError, match="no such model file"):
        checkpoint_meta(tmp_path / "net.pt")


def test_zip_files_that_hold_no_model_are_refused(tmp_path):
    for names, sentence in [
        (["hello"], "zip file, but holds no model"),
        (["a/data.pkl", "a/version"], "cut off, damaged, or no file that torch.save wrote"),
        (["m/archive_format", "m/data/aotinductor/model/x.so"], "AOTInductor package, compiled code without gradients"),
    ]:
        with zipfile.ZipFile(tmp_path / "net.pt", "w") as archive:
            for name in names:
                archive.writestr(name, "junk")
        refused(sentence, tmp_path / "net.pt", **FITS, trust=True)


def test_a_zip_whose_names_are_no_utf_8_or_whose_streams_end_early_is_damaged(tmp_path):
    whole = saved(tmp_path / "net.pth", network().state_dict()).read_bytes()
    directory = whole.rfind(b"PK\x01\x02")  # of the last member, in the directory at the end
    for place, value in ((directory + 46, b"\xff\xfe"), (whole.find(b"PK\x03\x04", 10) + 30, b"\xff\xfe")):
        (tmp_path / "net.pth").write_bytes(flagged(whole[:place] + value + whole[place + 2 :]))
        refused("is cut off or damaged|cut off, damaged|fails its checksum", tmp_path / "net.pth", **FITS)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(10000))
    cut = buffer.getvalue()
    (tmp_path / "net.pth").write_bytes(cut[:35] + b"\xff" * 8 + cut[43:])
    refused("is cut off or damaged|fails its checksum", tmp_path / "net.pth", **FITS)


def flagged(data: bytes) -> bytes:
    """A zip file whose members all say that their names are UTF-8."""
    found = bytearray(data)
    for mark, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        place = data.find(mark)
        while place >= 0:
            found[place + offset + 1] |= 0x08
            place = data.find(mark, place + 4)
    return bytes(found)


@pytest.mark.parametrize("seed", range(4))
def test_mutated_files_of_every_kind_load_or_are_refused_in_one_sentence(tmp_path, seed):
    draw = np.random.default_rng(seed)
    files = {"net.pth": network().state_dict(), "old.pth": network().state_dict()}
    for name, content in files.items():
        torch.save(content, tmp_path / name, _use_new_zipfile_serialization=name == "net.pth")
        data = (tmp_path / name).read_bytes()
        for _ in range(150):
            mutated = np.frombuffer(data, dtype=np.uint8).copy()
            where = draw.integers(len(data), size=draw.integers(1, 6))
            mutated[where] = draw.integers(256, size=len(where))
            (tmp_path / name).write_bytes(mutated.tobytes()[: draw.choice([len(data), draw.integers(1, len(data))])])
            with contextlib.suppress(InputError):
                load_with_origin(tmp_path / name, **FITS)


# stored programs


def test_torchscript_runs_only_with_trust(tmp_path):
    path = scripted(tmp_path / "net.pt")
    refused("is a TorchScript archive, a stored program .deprecated since torch 2.14.: pass --trust", path, classes=3, shape=SHAPE)
    loaded = load_with_origin(path, classes=3, shape=SHAPE, trust=True)
    torch.testing.assert_close(loaded.model(pixels()), network()(pixels()))
    assert loaded.sha256 == sha256(path.read_bytes()).hexdigest()
    assert loaded.notes == ("net.pt is a stored program, which was run",)
    scaled = load_with_origin(path, classes=3, shape=SHAPE, trust=True, mean=[0.5], std=[0.5]).model
    torch.testing.assert_close(scaled(pixels()), network()(pixels() * 2 - 1))
    refused("leave --arch out", path, **FITS, trust=True)


@pytest.mark.parametrize(
    ("dynamic", "limits"),
    [(None, (4, 4)), (torch.export.Dim("b", min=2, max=6), (2, 6)), (torch.export.Dim("b"), (1, None))],
    ids=["static", "limited", "dynamic"],
)
def test_an_exported_program_takes_batches_of_any_size(tmp_path, dynamic, limits):
    path = exported(tmp_path / "net.pt2", network(), 4, dynamic)
    refused("is a torch.export program, which torch reads by unpickling: pass --trust", path, classes=3, shape=SHAPE)
    loaded = load_with_origin(path, classes=3, shape=SHAPE, trust=True)
    assert (loaded.model.least, loaded.model.most) == limits
    assert loaded.notes == ("net.pt2 is a stored program, which was run",)
    for n in (1, 3, 4, 9, 13):
        torch.testing.assert_close(loaded.model(pixels(n)), network()(pixels(n)))
    assert not loaded.model.train().eval().training  # does not raise, as the program's own eval() does


def test_gradients_pass_through_a_padded_program(tmp_path):
    model = load_with_origin(exported(tmp_path / "net.pt2", network(), 4), classes=3, shape=SHAPE, trust=True, mean=[0.5], std=[0.5]).model
    plain = build_network("mlp,width=6", classes=3, shape=SHAPE, mean=[0.5], std=[0.5])
    plain.network.load_state_dict(network().state_dict())
    gradients = []
    for each in (model, plain):
        x = pixels(6).requires_grad_()
        each(x).square().sum().backward()
        gradients.append(x.grad)
    torch.testing.assert_close(*gradients)


def test_programs_that_cannot_be_a_classifier_in_eval_mode_are_refused(tmp_path):
    sizes = {"classes": 2, "shape": SHAPE, "trust": True}
    dropping = nn.Sequential(Sums(), nn.Dropout(0.5))
    refused("was exported in training mode .aten::dropout.", exported(tmp_path / "a.pt2", dropping.train(), 4), **sizes)
    refused("returns tuple, not one tensor of logits", exported(tmp_path / "b.pt2", Sums(lambda z: (z[:, 0], z.sum())), 4), **sizes)
    refused("several tensors that may be the logits", exported(tmp_path / "e.pt2", Sums(lambda z: (z, torch.cat((z, z), 1))), 4), **sizes)
    adding = nn.Bilinear(8, 8, 2)
    refused("something else than one batch of images", exported(tmp_path / "c.pt2", adding, 4, inputs=2), **sizes)
    refused(r"cannot take images of shape \(B, 1, 9, 9\)", exported(tmp_path / "d.pt2", Sums(), 4), **sizes | {"shape": (1, 9, 9)})


def rewritten(source: Path, target: Path, changes: dict[str, bytes | None]) -> Path:
    """A copy of a zip file in which members that end in the given names have other bytes, or are missing (None)."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = next((data for end, data in changes.items() if name.endswith(end)), old.read(name))
            if data is not None:
                new.writestr(name, data)
    return target


def test_a_damaged_program_is_one_sentence_and_torch_logs_no_traceback(tmp_path, caplog):
    path, sizes = exported(tmp_path / "net.pt2", network(), 4), {"classes": 3, "shape": SHAPE, "trust": True}
    for changes in ({"weight_0": None}, {"model.json": b"{}"}, {"model.json": b"junk"}):
        refused("cannot be read as a torch.export program", rewritten(path, tmp_path / "broken.pt2", changes), **sizes)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    path.write_bytes(path.read_bytes()[:-200])
    refused("cut off or damaged", path, **sizes)


def test_a_program_can_hold_a_command_and_runs_only_with_trust(tmp_path):
    buffer = io.BytesIO()
    torch.save(Command(tmp_path), buffer)
    path = rewritten(exported(tmp_path / "net.pt2", network(), 4), tmp_path / "evil.pt2", {"sample_inputs/model.pt": buffer.getvalue()})
    refused("pass --trust", path, classes=3, shape=SHAPE)
    assert not (tmp_path / "ran").exists()
    with contextlib.suppress(InputError):
        load_with_origin(path, classes=3, shape=SHAPE, trust=True)
    assert (tmp_path / "ran").exists()


# code and libraries


def test_a_factory_in_a_file_or_a_module_makes_the_model(tmp_path, monkeypatch):
    (tmp_path / "my_models.py").write_text(
        "import torch\nfrom torch import nn\ndef net():\n    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))\ndef other(): return 3\ndef fails(): return 1 / 0\n"
    )
    monkeypatch.chdir(tmp_path)
    for source in (tmp_path / "my_models.py:net", "my_models:net"):
        loaded = load_with_origin(source, classes=3, shape=SHAPE)
        assert loaded.name == Path(source).name
        assert loaded.notes == (f"{loaded.name} ran code of the user's",)
        assert loaded.sha256 == fingerprint(loaded.model.state_dict())
        assert not loaded.model.training
        assert load_with_origin(source).model(pixels()).shape == (5, 3)
    refused("my_models:other gave int and no torch.nn.Module", "my_models:other")
    refused("my_models:fails failed: ZeroDivisionError: division by zero", "my_models:fails")
    refused("has no function 'nothing'", "my_models:nothing")
    refused("cannot be imported: ModuleNotFoundError", "no_such_module_here:net")
    refused("has no function 'nothing'", "my_models.py:nothing")
    refused("no such file", "nowhere.py:net")
    refused("leave --arch out", "my_models:net", arch="mlp")
    refused("leave --activation out", "my_models:net", activation="gelu")
    assert checkpoint_meta("my_models:net") == {}
    sys.modules.pop("my_models")


def test_a_library_network_says_that_its_weights_are_random(tmp_path):
    loaded = load_with_origin("tv/squeezenet1_1", classes=3, shape=(3, 32, 32))
    assert loaded.name == "tv/squeezenet1_1"
    assert "random weights" in loaded.notes[0]
    path = saved(tmp_path / "net.pth", loaded.model.state_dict())
    again = load_with_origin(path, arch="tv/squeezenet1_1", classes=3, shape=(3, 32, 32))
    assert again.notes == ()
    assert again.sha256 == loaded.sha256
    refused("give classes and shape", "tv/squeezenet1_1")
    refused("leave --arch out", "tv/squeezenet1_1", **FITS)


# the trial run


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda z: z[:, :1], "the model returns 1 output for each image, and classes need at least 2"),
        (lambda z: z * float("nan"), "NaN or infinite logits"),
        (lambda z: (z, z), "returns tuple, not one tensor"),
        (lambda z: z[:, 0], r"into an output \(4,\), not into logits"),
        (lambda z: z[:1], r"into an output \(1, 2\)"),
        (lambda z: z @ torch.ones(3, 3), r"cannot take images of shape \(B, 1, 8, 8\): RuntimeError"),
    ],
)
def test_a_model_that_gives_no_logits_is_refused(change, sentence):
    with pytest.raises(InputError, match=sentence):
        trial_notes(Sums(change), SHAPE, 2, "cpu")


def test_outputs_that_look_like_probabilities_are_noted():
    assert "look like probabilities" in trial_notes(Sums(lambda z: z.softmax(1)), SHAPE, 2, "cpu")[0]
    assert trial_notes(Sums(), SHAPE, 2, "cpu") == []
    assert trial_notes(Sums(lambda z: z.abs()), SHAPE, 2, "cpu") == []


def test_the_trial_leaves_the_random_numbers_as_they_were():
    torch.manual_seed(5)
    trial_notes(Sums(), SHAPE, 2, "cpu")
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1))


def test_wrong_images_and_wrong_classes_are_named(tmp_path):
    path = saved(tmp_path / "whole.pt", network())
    refused(r"cannot take images of shape \(B, 3, 32, 32\)", path, classes=3, shape=(3, 32, 32), trust=True)
    refused("the model has 3 outputs, the data 10 classes", path, classes=10, shape=SHAPE, trust=True)


def test_load_model_is_the_public_way_in(tmp_path):
    path = saved(tmp_path / "net.pth", network().state_dict())
    assert torch.equal(robench.load_model(path, **FITS)(pixels()), network()(pixels()))


def test_loading_a_plain_checkpoint_imports_neither_torchvision_nor_timm():
    code = "import sys, robench.models; sys.exit(any(name in sys.modules for name in ('torchvision', 'timm', 'safetensors')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.realdata
def test_the_weights_of_others_load_by_name_and_equal_their_factory(zoo):
    folder = Path(os.environ["ROBENCH_MODELS"])
    theirs = load_with_origin(folder / "zoo.py:wong2020_fgsm", classes=10, shape=(1, 28, 28))
    ours = load_with_origin(folder / "mnist_wong2020_fgsm.pth", arch="two-conv", classes=10, shape=(1, 28, 28))
    assert (theirs.name, ours.name) == ("zoo.py:wong2020_fgsm", "mnist_wong2020_fgsm.pth")
    assert theirs.sha256 == ours.sha256
    x = torch.rand(4, 1, 28, 28)
    torch.testing.assert_close(ours.model(x), theirs.model(x), atol=1e-5, rtol=0)


def test_a_checkpoint_is_opened_without_torchs_compiler_whose_import_takes_seconds():
    code = "import sys, robench\nrobench.load_model(sys.argv[1])\nassert 'torch._dynamo' not in sys.modules\n"
    subprocess.run([sys.executable, "-c", code, CHECKPOINT], check=True, capture_output=True)
