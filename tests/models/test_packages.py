"""What is said where an optional package is missing: its own name, as no index knows robench and its extras."""

import re
import sys

import pytest
import torch
from places import ROOT

from robench.core.errors import InputError
from robench.data import load_images
from robench.explainers.masking import refuse_without_sklearn
from robench.models import load_with_origin as load_any


@pytest.fixture
def without(monkeypatch):
    """Makes a package impossible to import."""

    def hide(name):
        for module in [m for m in sys.modules if m.partition(".")[0] == name]:
            monkeypatch.delitem(sys.modules, module)
        monkeypatch.setitem(sys.modules, name, None)

    return hide


def test_a_missing_package_is_named_with_the_line_that_installs_it(without, tmp_path):
    without("timm")
    with pytest.raises(InputError, match=r"pip install timm$"):
        load_any("timm/resnet18", classes=10, shape=(3, 32, 32))
    without("safetensors")
    (tmp_path / "net.safetensors").write_bytes((8).to_bytes(8, "little") + b"{}      ")
    with pytest.raises(InputError, match=r"pip install safetensors$"):
        load_any(tmp_path / "net.safetensors", arch="cnn", classes=10, shape=(3, 32, 32))
    without("sklearn")
    with pytest.raises(InputError, match=r"pip install scikit-learn$"):
        refuse_without_sklearn()


def test_svhn_names_what_reads_it(monkeypatch, tmp_path):
    import torchvision

    def absent(**_):
        raise ModuleNotFoundError("No module named 'scipy'", name="scipy")

    monkeypatch.setattr(torchvision.datasets, "SVHN", absent)
    with pytest.raises(InputError, match=r"svhn needs scipy, which is not installed: pip install scipy$"):
        load_images("svhn", data_dir=tmp_path)


def test_no_page_and_no_message_asks_for_an_extra_of_robench():
    for file in [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "robench").rglob("*.py")]:
        assert not re.search(r"robench\[[a-z-]+\]", file.read_text()), file


def test_fgsm_in_l1_moves_as_many_subpixels_as_its_docstring_says(problem):
    from robench.attacks import ATTACKS
    from robench.core.threat import Threat

    p, eps = problem("linear"), 2.5
    found = ATTACKS["fgsm"](p.model, p.x, p.y, Threat("l1", eps), p.draws())
    moved = ((found.x_adv - p.x).abs() > 0).flatten(1).sum(1)
    assert "ceil(eps)" in ATTACKS["fgsm"].__doc__
    assert int(moved.max()) == 3  # and not 1 % of them, which is 2
    assert torch.isfinite(found.x_adv).all()
