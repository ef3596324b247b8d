"""Made weights where torch and Hugging Face keep real ones, with the names that their libraries give them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn


def use_empty_caches(monkeypatch: Any, folder: Path) -> None:
    """Makes torch and huggingface_hub look for their files below a folder, and refuses the network."""
    import huggingface_hub.constants

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a test reached for the network")

    monkeypatch.setenv("TORCH_HOME", str(folder / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)


def put_torch_weights(monkeypatch: Any, entry: Any, content: Any) -> Path:
    """Saves content as the file of an entry of torchvision's enums of weights, whose address ends in the hash of that file."""
    place = Path(torch.hub.get_dir()) / "checkpoints" / "new.pth"
    place.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, place)
    digest = hashlib.sha256(place.read_bytes()).hexdigest()[:8]
    stem = Path(entry.url).name.rpartition("-")[0]
    monkeypatch.setattr(entry.value, "url", f"https://download.pytorch.org/models/{stem}-{digest}.pth")
    return place.rename(place.with_name(f"{stem}-{digest}.pth"))


def put_hub_files(repository: str, files: dict[str, bytes], revision: str = "0123abcd" * 5) -> Path:
    """Puts files into Hugging Face's cache as it keeps them: blobs named by their hash, links to them in the snapshot that main names."""
    import huggingface_hub.constants

    home = Path(huggingface_hub.constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    for folder in ("blobs", "refs", f"snapshots/{revision}"):
        (home / folder).mkdir(parents=True, exist_ok=True)
    (home / "refs" / "main").write_text(revision)
    for name, content in files.items():
        blob = home / "blobs" / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        link = home / "snapshots" / revision / name
        link.unlink(missing_ok=True)
        link.symlink_to(f"../../blobs/{blob.name}")
    return home / "snapshots" / revision


def safetensors_bytes(network: nn.Module) -> bytes:
    """A network's weights as a safetensors file."""
    from safetensors.torch import save

    return save({key: value.contiguous() for key, value in network.state_dict().items()})


def json_bytes(value: Any) -> bytes:
    """A value as JSON."""
    return json.dumps(value).encode()


def moved_statistics(network: nn.Module) -> nn.Module:
    """The network in eval mode, with weights from torch's generator and batch norms that do something."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()
