"""Clusters: how they are named, what is refused and how soon, and tasks whose process dies; no training."""

import socket
import sys
import time

import pytest
from commandline import refused
from needed import needed_package

from robench.core import clusters
from robench.core.clusters import EngineWords, TaskResources, cluster_address, engine_of_options, granted_resources, ray_package
from robench.core.errors import InputError

SWEEP = ("train", "--sweep", "lr=0.1:0.2", "--n-train", "200", "--epochs", "1")


@pytest.mark.parametrize(
    "engine", ["spark", "Ray", "ray:", "ray:host", "ray:host:port", "ray::6379", "ray:ray://host:10001", "ray:host:99999"]
)
def test_other_words_for_a_cluster_are_refused(engine):
    with pytest.raises(InputError, match="write ray, or ray:HOST:PORT"):
        cluster_address(engine)


@pytest.mark.parametrize(
    ("engine", "address"), [("ray", ""), ("ray:auto", "auto"), ("ray:10.0.0.1:6379", "10.0.0.1:6379"), ("ray:[::1]:6379", "[::1]:6379")]
)
def test_a_cluster_is_named_by_its_address(engine, address):
    assert cluster_address(engine) == address


def test_threads_and_gpus_are_those_of_each_task():
    assert engine_of_options(None, None, 4, "auto") is None
    assert engine_of_options("ray", None, None, "auto") == EngineWords("", TaskResources(1, None), "auto")
    assert engine_of_options("ray", None, 4, "cpu") == EngineWords("", TaskResources(4, 0.0), "cpu")
    assert engine_of_options("ray", 0.5, 1, "cuda") == EngineWords("", TaskResources(1, 0.5), "cuda")


@pytest.mark.parametrize(
    ("on", "gpus", "device", "why"),
    [(None, 1.0, "auto", "belongs to a cluster"), ("ray", 1.0, "cpu", "do not go together"), ("ray", 0.0, "cuda", "do not go together"),
     ("ray", None, "cuda:1", "gives each task its GPUs")],
)  # fmt: skip
def test_options_that_do_not_go_together_are_refused(on, gpus, device, why):
    with pytest.raises(InputError, match=why):
        engine_of_options(on, gpus, None, device)


def test_a_task_gets_one_gpu_where_there_are_any():
    assert granted_resources([{"CPU": 4.0}], TaskResources(4)) == TaskResources(4, 0.0)
    assert granted_resources([{"CPU": 4.0}, {"CPU": 2.0, "GPU": 8.0}], TaskResources(2)) == TaskResources(2, 1.0)
    assert granted_resources([{"CPU": 2.0, "GPU": 1.0}], TaskResources(2, 0.25)) == TaskResources(2, 0.25)


@pytest.mark.parametrize(
    ("wanted", "why"),
    [(TaskResources(8), "no machine .* has 8 CPUs and 1 GPUs"), (TaskResources(4), "4 CPUs and 1 GPUs .* the largest have 4 and 2"),
     (TaskResources(1, 3.0), "1 CPUs and 3 GPUs"), (TaskResources(1, 1.5), "whole ones")],
)  # fmt: skip
def test_what_no_machine_has_is_refused_as_it_would_wait_for_ever(wanted, why):
    with pytest.raises(InputError, match=why):
        granted_resources([{"CPU": 4.0}, {"CPU": 2.0, "GPU": 2.0}], wanted)


def test_without_the_package_one_sentence_says_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"^--on ray needs the package ray, which is not installed: pip install ray$"):
        ray_package()
    assert "pip install ray" in refused(*SWEEP, "--on", "ray", "--out", tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


def test_a_cluster_is_for_sweeps():
    assert "pass --sweep" in refused("train", "--on", "ray")


def test_an_address_at_which_nothing_listens_is_refused_within_seconds():
    needed_package("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    begin = time.monotonic()
    with pytest.raises(InputError, match=f"nothing answers at {address}, where --on looks for a Ray cluster: Connection refused"):
        clusters.address_to_join(address)
    assert time.monotonic() - begin < clusters.REACHABLE_S + 1


def test_an_address_that_takes_connections_and_is_no_cluster_is_refused_in_time(monkeypatch):
    needed_package("ray")
    monkeypatch.setattr(clusters, "JOINABLE_S", 2)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        with pytest.raises(InputError, match="does not answer as a Ray cluster within 2 s"):
            clusters.address_to_join(f"127.0.0.1:{server.getsockname()[1]}")


def test_the_file_of_a_cluster_that_was_killed_does_not_keep_a_new_one_from_beginning(monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert clusters.address_to_join("") == "local"
    with pytest.raises(InputError, match="no Ray cluster runs on this machine"):
        clusters.address_to_join("auto")
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")
    assert clusters.address_to_join("") == "local"
    with pytest.raises(InputError, match=r"nothing answers at 127\.0\.0\.1:1"):
        clusters.address_to_join("auto")
