"""Our checkpoint: what comes back, what a damaged one says, and that nothing half-written is left behind."""

from __future__ import annotations

import json
import os
from functools import partial
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from commandline import refused
from torch import nn

from robench.core.errors import InputError
from robench.models import ARCHITECTURES, build_network, checkpoint_meta, load_with_origin
from robench.models.checkpoint import fingerprint, read_checkpoint, save_checkpoint
from robench.models.resnet import wide_resnet


def described(arch: str, shape=(3, 32, 32), **more) -> dict:
    return {"arch": arch, "classes": 10, "shape": list(shape), "activation": "gelu", "mean": None, "std": None, "options": {}} | more


@pytest.fixture
def small(tmp_path):
    """A path, the model saved there, and its meta."""
    torch.manual_seed(0)
    meta = {"model": described("mlp", (1, 4, 4), options={"width": 8}), "preset": "small", "data": {"name": "shapes"}, "metrics": {}}
    model = build_network("mlp", classes=10, shape=(1, 4, 4), activation="gelu", width=8)
    save_checkpoint(tmp_path / "net.pt", model, meta)
    return tmp_path / "net.pt", model, meta


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_checkpoint_of_every_architecture_gives_the_same_logits(arch, tmp_path, monkeypatch):
    if arch.startswith("wrn"):  # the same code with fewer weights
        monkeypatch.setitem(ARCHITECTURES, arch, partial(wide_resnet, 10, 1))
    torch.manual_seed(0)
    scale = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.2, 0.3]}
    model = build_network(arch, classes=10, shape=(3, 32, 32), activation="gelu", **scale).eval()
    save_checkpoint(tmp_path / "net.pt", model, {"model": described(arch, **scale)})
    loaded = load_with_origin(tmp_path / "net.pt")
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(loaded.model(x), model(x))
    assert not loaded.model.training
    assert loaded.name == "net.pt"
    assert loaded.notes == ()


def test_a_checkpoint_keeps_its_options_and_its_meta(small):
    path, model, meta = small
    loaded = load_with_origin(path, classes=10, shape=(1, 4, 4))
    assert loaded.meta == meta == read_checkpoint(path)[1] == checkpoint_meta(path)
    assert loaded.sha256 == fingerprint(model.state_dict())
    assert loaded.model[1].weight.shape == (8, 16)


def test_a_description_without_options_is_enough(tmp_path):
    about = described("mlp", (1, 4, 4))
    del about["options"]
    save_checkpoint(tmp_path / "net.pt", build_network("mlp", classes=10, shape=(1, 4, 4)), {"model": about})
    assert load_with_origin(tmp_path / "net.pt").meta["model"] == about


def test_the_file_needs_nothing_but_weights_only(small):
    content = torch.load(small[0], weights_only=True)
    assert set(content) == {"format", "state", "meta"}
    assert content["format"] == "robench-checkpoint-1"


def test_the_json_beside_it_holds_meta_and_the_hash_of_the_weights(small):
    path, model, meta = small
    beside = json.loads(path.with_suffix(".json").read_text())
    assert beside == {"format": "robench-checkpoint-1", "sha256": fingerprint(model.state_dict()), "meta": meta}


def test_the_fingerprint_is_the_documented_hash():
    state = {"b": torch.tensor([1, 2]), "a": torch.tensor(0.5)}
    text = b"a|torch.float32|()|" + state["a"].numpy().tobytes() + b"b|torch.int64|(2,)|" + state["b"].numpy().tobytes()
    assert fingerprint(state) == sha256(text).hexdigest()
    assert fingerprint(dict(reversed(state.items()))) == fingerprint(state)
    assert fingerprint(state | {"a": torch.tensor(0.25)}) != fingerprint(state)
    assert fingerprint(state | {"a": torch.tensor([0.5])}) != fingerprint(state)
    assert fingerprint({"a": torch.tensor([1.0], dtype=torch.bfloat16)}) != fingerprint({"a": torch.tensor([1.0])})


def test_saving_twice_writes_the_same_bytes(small, tmp_path):
    path, model, meta = small
    save_checkpoint(tmp_path / "other.pt", model, meta)
    assert path.read_bytes() == (tmp_path / "other.pt").read_bytes()


def test_numbers_that_json_cannot_hold_become_none_and_tuples_lists(tmp_path):
    meta = {"metrics": {"loss": float("nan"), "best": float("inf"), "shape": (1, 2)}}
    save_checkpoint(tmp_path / "net.pt", nn.Linear(1, 1), meta)
    assert read_checkpoint(tmp_path / "net.pt")[1] == {"metrics": {"loss": None, "best": None, "shape": [1, 2]}}
    with pytest.raises(TypeError, match="plain values only, not Tensor"):
        save_checkpoint(tmp_path / "net.pt", nn.Linear(1, 1), {"metrics": torch.ones(1)})


def test_a_folder_that_is_missing_is_made(tmp_path):
    save_checkpoint(tmp_path / "a" / "b" / "net.pt", nn.Linear(1, 1), {})
    assert sorted(p.name for p in (tmp_path / "a" / "b").iterdir()) == ["net.json", "net.pt"]


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "net.pt", tmp_path / "file" / "deep" / "net.pt"):
        with pytest.raises(InputError, match="cannot write"):
            save_checkpoint(path, nn.Linear(1, 1), {})
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    with pytest.raises(InputError, match=r"name the checkpoint itself, such as net\.pt"):
        save_checkpoint(tmp_path / "net.json", nn.Linear(1, 1), {})


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root writes anywhere")
def test_a_read_only_folder_is_one_sentence(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(InputError, match="cannot write"):
            save_checkpoint(tmp_path / "net.pt", nn.Linear(1, 1), {})
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("fails", ["replace", "fsync"])
def test_a_save_that_fails_leaves_the_old_checkpoint_and_nothing_else(small, monkeypatch, fails, error):
    path, _, meta = small
    before = {p.name: p.read_bytes() for p in path.parent.iterdir()}

    def fail(*_):
        raise error

    monkeypatch.setattr(*((Path, "replace", fail) if fails == "replace" else (os, "fsync", fail)))
    with pytest.raises(InputError if isinstance(error, OSError) else KeyboardInterrupt) as caught:
        save_checkpoint(path, nn.Linear(3, 3), meta)
    monkeypatch.undo()
    assert {p.name: p.read_bytes() for p in path.parent.iterdir()} == before
    assert not isinstance(error, OSError) or "No space left on device" in str(caught.value)


def test_the_checkpoint_is_whole_before_it_gets_its_name(small, monkeypatch):
    path, seen = small[0], []
    replace = Path.replace

    def watched(self, target):
        seen.append((self.parent == Path(target).parent, self.stat().st_size > 0))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    save_checkpoint(path, nn.Linear(3, 3), {})
    assert seen == [(True, True), (True, True)]


def test_every_truncation_is_refused_in_one_sentence(small, tmp_path):
    data = small[0].read_bytes()
    for keep in [0, 1, 2, 30, *range(100, len(data), max(1, len(data) // 12)), len(data) - 1]:
        cut = tmp_path / "cut.pt"
        cut.write_bytes(data[:keep])
        with pytest.raises(InputError, match=r"empty|cut off|not a model file") as caught:
            load_with_origin(cut)
        assert "\n" not in str(caught.value)


def test_a_flipped_bit_in_the_weights_is_noticed(small):
    path, model, _ = small
    data, weights = bytearray(path.read_bytes()), model[1].weight.detach().numpy().tobytes()
    data[data.index(weights) + 5] ^= 0x10
    path.write_bytes(data)
    with pytest.raises(InputError, match="fails its checksum"):
        load_with_origin(path)


def test_a_checkpoint_of_another_version_or_without_its_parts_is_refused(small, tmp_path):
    content = torch.load(small[0], weights_only=True)
    broken = {
        "use the version that wrote it": content | {"format": "robench-checkpoint-9"},
        "its weights or its description are missing": {"format": content["format"], "meta": {}},
        "does not describe its network": content | {"meta": {"model": {"arch": "mlp"}}},
        "unknown architecture": content | {"meta": {"model": content["meta"]["model"] | {"arch": "nothing"}}},
        "no option 'colour'": content | {"meta": {"model": content["meta"]["model"] | {"options": {"colour": 1}}}},
    }
    for sentence, what in broken.items():
        torch.save(what, tmp_path / "broken.pt")
        with pytest.raises(InputError, match=sentence):
            load_with_origin(tmp_path / "broken.pt")


@pytest.mark.parametrize(
    ("where", "wrong", "sentence"),
    [
        ("", {"recipe": None}, "says recipe None, which is no table"),
        ("", {"data": 3}, "says data 3, which is no table"),
        ("recipe", {"eps": "x"}, "says eps 'x'"),
        ("recipe", {"norm": 2}, "says norm 2"),
        ("model", {"classes": 10**9}, "it describes a network of"),
        ("model", {"classes": "ten"}, "says classes 'ten'"),
        ("model", {"shape": [3, 10**6, 10**6]}, "says shape .3, 1000000, 1000000."),
        ("model", {"shape": [1, 4000, 4000]}, "it describes a network of"),
        ("model", {"options": {"width": 10**9}}, "it describes a network"),
    ],
)
def test_a_description_that_was_edited_is_damaged(small, tmp_path, where, wrong, sentence):
    content = torch.load(small[0], weights_only=True)
    meta = content["meta"]
    content["meta"] = meta | ({where: meta.get(where, {}) | wrong} if where else wrong)
    torch.save(content, tmp_path / "edited.pt")
    with pytest.raises(InputError, match=f"edited.pt is a damaged checkpoint: .*{sentence}"):
        load_with_origin(tmp_path / "edited.pt")
    assert "edited.pt is a damaged checkpoint: " in refused("eval", tmp_path / "edited.pt", "--data", "shapes", "--out", tmp_path / "out")


def test_only_our_checkpoints_are_read_by_read(tmp_path):
    torch.save({"a": torch.ones(1)}, tmp_path / "state.pt")
    with pytest.raises(InputError, match="not a checkpoint of robench"):
        read_checkpoint(tmp_path / "state.pt")
    assert checkpoint_meta(tmp_path / "state.pt") == {}


def test_options_that_a_checkpoint_answers_itself_are_refused(small):
    for option in ({"arch": "cnn"}, {"mean": [0.5], "std": [0.5]}, {"activation": "silu"}):
        with pytest.raises(InputError, match=f"leave --{next(iter(option))} out"):
            load_with_origin(small[0], **option)
    load_with_origin(small[0], activation="gelu")  # what it says itself


def test_a_checkpoint_starts_no_code_that_the_user_has_not_named(tmp_path):
    (tmp_path / "mine.py").write_text(
        f"from pathlib import Path\nfrom torch import nn\nPath({str(tmp_path / 'ran')!r}).touch()\n"
        "def net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(16, 10))\n"
    )
    arch = f"{tmp_path}/mine.py:net"
    about = described(arch, (1, 4, 4), activation="relu")
    save_checkpoint(tmp_path / "net.pt", nn.Sequential(nn.Flatten(), nn.Linear(16, 10)), {"model": about})
    with pytest.raises(InputError, match=r"wants to run .*name that code yourself with --arch, or pass --trust"):
        load_with_origin(tmp_path / "net.pt")
    assert not (tmp_path / "ran").exists()
    assert torch.equal(
        load_with_origin(tmp_path / "net.pt", trust=True).model[1].weight, load_with_origin(tmp_path / "net.pt", arch=arch).model[1].weight
    )
    assert (tmp_path / "ran").exists()
