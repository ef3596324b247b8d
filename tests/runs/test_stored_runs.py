"""Commands on images that stay on the disk: the tables, arrays and weights of images in memory; damaged files; what ends in mid-run."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from commandline import INTERRUPTIBLE, read, refused, robench
from PIL import Image

from robench.models.checkpoint import read_checkpoint

ENV = {**os.environ, "OMP_NUM_THREADS": "1"}
N = 18
TRAINING = ["--arch", "mlp,width=8", "--epochs", "2", "--batch-size", "6", "--held-out", "6", "--eval-n", "6", "--suite", "fgsm"]
SHOWN = {"a": ["--image-size", "16", "--resize", "18"], "b": ["--image-size", "12"]}
COMMANDS = {
    "eval": [
        "eval", "NET", "--suite", "fgsm", "--suite", "pgd,steps=2 on random-noise,t=0.2", "--suite", "contrast,severity=2",
        "--suite", "random-noise,t=0.1", "--suite", "saliency", "--save",
    ],
    "attack": ["attack", "NET", "--attack", "pgd,steps=2,restarts=2", "--eps", "4/255,16/255", "--save"],
    "saliency": ["saliency", "NET", "--method", "saliency,input-x-gradient", "--against", "pgd,steps=2", "--save"],
    "corrupt": ["corrupt", "NET", "--corruption", "fog,contrast", "--severity", "1,3", "--save"],
    "until": ["eval", "NET", "--suite", "pgd,steps=2", "--until", "0.3"],
    "some": ["eval", "NET", "--suite", "fgsm", "--n", "11", "--shuffle", "--seed", "5"],
}  # fmt: skip


def make_tree(top, n=N):
    """Three classes of JPEGs of odd sizes, each of a colour with noise, for training and test."""
    draws = np.random.default_rng(7)
    for k in range(2 * n):
        label, part = k % 3, "train" if k < n else "val"
        pixels = draws.integers(0, 120, (18 + int(draws.integers(8)), 17 + int(draws.integers(9)), 3))
        pixels[:, :, label] += 60
        file = top / part / ("red", "green", "blue")[label] / f"{k:03d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(file, quality=92)
    return top


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tree, and two networks that know how their images are resized and cut."""
    top = tmp_path_factory.mktemp("stored")
    make_tree(top / "tree")
    for name, shown in SHOWN.items():
        robench("train", *TRAINING, "--data", f"folder:{top}/tree", *shown, "--out", top / f"{name}.pt", "--quiet")
    return top


def words_of(place, words, pixels, out, *more, tree="tree", nets=("a",)):
    named = [str(place / f"{name}.pt") for name in nets]
    filled = [part for word in words for part in (named if word == "NET" else [word])]
    data = ["--data", f"folder:{place}/{tree}", "--batch-size", "5", "--pixels", pixels, "--threads", "1"]
    return [*filled, *data, "--out", str(out), "--quiet", *more]


def tables(out, leave_out=("seconds",), only=""):
    """All tables of a folder without what differs between two runs of the same words, and its arrays."""
    found = {}
    for path in sorted(out.glob("*.csv")):
        lines = [line for line in read(path) if line.get("metric") not in leave_out]
        lines = [line for line in lines if not only or line.get("checkpoint", only) == only]
        found[path.name] = [{key: value for key, value in line.items() if key not in leave_out} for line in lines]
    return found | {path.name: np.load(path).tobytes() for path in sorted(out.glob("*.npy"))}


def n_of(out):
    """The numbers of images that the rows speak of, of those that speak of all."""
    return {int(row["n"]) for row in read(out / "rows.csv") if row["metric"] == "accuracy"}


@pytest.mark.parametrize("workers", ["0", "1", "3"])
@pytest.mark.parametrize("command", COMMANDS)
def test_tables_and_arrays_are_those_of_images_in_memory(command, workers, place, tmp_path):
    memory = place / f"memory-{command}"
    if not memory.exists():
        robench(*words_of(place, COMMANDS[command], "memory", memory))
    robench(*words_of(place, COMMANDS[command], "disk", tmp_path / "disk", "--workers", workers))
    assert tables(tmp_path / "disk") == tables(memory)
    assert len(tables(memory)) > 1


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_training_reaches_the_same_weights(workers, place, tmp_path):
    for objective in ("standard", "free-at,replays=2"):
        weights = []
        for pixels in ("memory", "disk"):
            out = tmp_path / f"{pixels}-{objective[:4]}.pt"
            how = ["--pixels", pixels, "--workers", workers, "--objective", objective, *SHOWN["a"]]
            robench("train", *TRAINING, "--data", f"folder:{place}/tree", *how, "--out", out, "--quiet")
            weights.append(read_checkpoint(out)[0])
        assert weights[0].keys() == weights[1].keys()
        assert all(weights[0][key].equal(weights[1][key]) for key in weights[0])


@pytest.mark.parametrize("command", ["eval", "saliency", "corrupt"])
def test_models_with_their_own_preprocessing_get_in_one_call_what_they_get_alone(command, place, tmp_path):
    robench(*words_of(place, COMMANDS[command], "disk", tmp_path / "both", "--workers", "2", nets=("a", "b")))
    for name in ("a", "b"):
        robench(*words_of(place, COMMANDS[command], "memory", tmp_path / name, nets=(name,)))
        alone, together = tables(tmp_path / name), tables(tmp_path / "both", only=f"{name}.pt")
        by_itself = [[row for row in found["rows.csv"] if "_shared" not in row["metric"]] for found in (together, alone)]
        assert by_itself[0] == by_itself[1]
    sizes = {np.load(path).shape[-1] for path in (tmp_path / "both").glob("*.npy")}
    assert sizes == {16, 12}, [path.name for path in (tmp_path / "both").glob("*.npy")]


MANY = ["eval", "NET", "--suite", "fgsm", "--suite", "contrast,severity=2"]


def damaged_tree(place, name, rows, n=N):
    """A copy of the tree, or one of n images, in which the test images of some rows are cut short."""
    top = make_tree(place / name, n)
    files = sorted((top / "val").rglob("*.jpg"), key=lambda path: path.name)  # as they are read
    for row in rows:
        files[row].write_bytes(files[row].read_bytes()[:100])
    return [files[row].name for row in rows]


@pytest.mark.parametrize("pixels", ["memory", "disk"])
@pytest.mark.parametrize("rows", [(0,), (8, 9), (0, 1, 2, 3, 4, 5, 17)])
@pytest.mark.parametrize("command", ["eval", "corrupt"])
def test_damaged_files_are_named_or_left_out_of_every_row(command, rows, pixels, place, tmp_path):
    tree = f"damaged-{command}-{pixels}-{len(rows)}"
    names = damaged_tree(place, tree, rows)
    words = words_of(place, COMMANDS[command], pixels, tmp_path / "out", "--workers", "2", tree=tree)
    said = refused(*words)
    assert any(name in said for name in names)
    assert "cannot be read as an image" in said
    robench(*words, "--skip-damaged", "--force")
    assert n_of(tmp_path / "out") == {N - len(rows)}
    manifest = (tmp_path / "out" / "manifest.json").read_text()
    assert f"{len(rows)} of the {N} chosen images cannot be read and are left out" in manifest
    assert not {Path(line.get("file", "")).name for line in read(tmp_path / "out" / "samples.csv")} & {*names}


def test_where_all_are_damaged_there_is_one_sentence(place, tmp_path):
    damaged_tree(place, "all damaged", range(N))
    for pixels in ("memory", "disk"):
        said = refused(*words_of(place, COMMANDS["some"][:4], pixels, tmp_path / "out", "--skip-damaged", tree="all damaged"))
        assert "none of the images that were chosen can be read" in said


def test_a_run_that_stops_at_a_damaged_file_goes_on_without_it(place, tmp_path):
    (name,) = damaged_tree(place, "middle", (73,), 80)
    words = words_of(place, MANY, "disk", tmp_path / "out", "--workers", "2", tree="middle")
    said = refused(*words)
    assert name in said
    assert "--skip-damaged leaves such images out, with --resume" in said
    state = tmp_path / "out" / "state-0.jsonl"
    before = state.read_bytes()
    assert before.count(b'"stage":"clean') == 14  # chunks of five
    assert name in refused(*words, "--resume")
    robench(*words, "--resume", "--skip-damaged")
    assert state.read_bytes().startswith(before)
    robench(*words_of(place, MANY, "memory", tmp_path / "whole", "--skip-damaged", tree="middle"))
    assert n_of(tmp_path / "out") == n_of(tmp_path / "whole") == {79}
    assert tables(tmp_path / "out")["rows.csv"] == tables(tmp_path / "whole")["rows.csv"]


def test_a_run_does_not_go_on_with_files_that_changed_meanwhile(place, tmp_path):
    (name,) = damaged_tree(place, "changed", (73,), 80)
    words = words_of(place, COMMANDS["some"][:4], "disk", tmp_path / "out", tree="changed")
    assert name in refused(*words)
    first = next((place / "changed" / "val").rglob("080.jpg"))
    Image.open(first).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(first, quality=92)
    said = refused(*words, "--resume", "--skip-damaged")
    assert "holds the state of another run: its images is" in said


def test_sizes_that_do_not_go_together_are_refused_naming_the_options(place, tmp_path):
    for pixels in ("memory", "disk"):
        words = words_of(place, COMMANDS["some"][:4], pixels, tmp_path / "out", "--image-size", "16", "--resize", "12")
        assert "--resize must be at least --image-size" in refused(*words)


# --- processes that end


def started(words, **how):
    return subprocess.Popen([sys.executable, "-c", INTERRUPTIBLE, *words], env=ENV, stderr=subprocess.PIPE, text=True, **how)


def children(pid):
    """The processes that a process has started, and that run."""
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_until(condition, seconds=90):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.02)


def lines(state):
    return state.read_bytes().count(b"\n") if state.exists() else 0


LONG = ["attack", "NET", "--attack", "pgd,steps=20,restarts=4,loss=margin", "--eps", "1/255,2/255"]


@pytest.mark.parametrize("ending", ["worker killed", "killed", "interrupted"])
def test_what_ends_in_mid_run_leaves_no_process_and_goes_on(ending, place, tmp_path):
    words = words_of(place, LONG, "disk", tmp_path / "out", "--workers", "2", "--batch-size", "1")
    state = tmp_path / "out" / "state-0.jsonl"
    process = started(words, start_new_session=True)
    wait_until(lambda: lines(state) > 2 and children(process.pid))
    workers = children(process.pid)
    if ending == "worker killed":
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
    elif ending == "killed":
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGINT)
    said = " ".join(process.communicate(timeout=90)[1].split())
    wait_until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers), 20)
    wanted = {"worker killed": (0, 2), "killed": (-signal.SIGKILL,), "interrupted": (130,)}[ending]
    assert process.returncode in wanted
    assert "Traceback" not in said
    if process.returncode == 2:
        assert "a process that decodes images was ended by signal 9 before it was done: go on with --resume" in said
    before = lines(state)
    assert before > 2
    robench(*words, "--resume")
    robench(*words_of(place, LONG, "memory", tmp_path / "whole", "--batch-size", "1"))
    assert tables(tmp_path / "out") == tables(tmp_path / "whole")


def test_two_processes_share_images_on_the_disk(place, tmp_path):
    words = words_of(place, COMMANDS["eval"], "disk", tmp_path / "out", "--workers", "1", "--device", "cpu")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--", "robench"]
    done = subprocess.run([*launcher, *words], env=ENV, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    robench(*words_of(place, COMMANDS["eval"], "memory", tmp_path / "whole"))
    assert tables(tmp_path / "out") == tables(tmp_path / "whole")


def only_begun(out):
    """Makes a finished run one that was killed after its first entries."""
    begun = b"".join((out / "state-0.jsonl").read_bytes().splitlines(keepends=True)[:4])
    shutil.rmtree(out)
    out.mkdir()
    (out / "state-0.jsonl").write_bytes(begun)


@pytest.mark.parametrize(("first", "then"), [("disk", "memory"), ("memory", "disk"), ("disk", "disk"), ("memory", "memory")])
@pytest.mark.parametrize("command", ["until", "some", "corrupt"])
def test_a_run_goes_on_wherever_the_pixels_are_kept_but_not_with_a_changed_image(command, first, then, place, tmp_path):
    tree = make_tree(tmp_path / "tree")
    words = [word.replace(f"{place}/tree", str(tree)) for word in words_of(place, COMMANDS[command], first, tmp_path / "out")]
    robench(*words)
    whole = tables(tmp_path / "out")
    finished = list(words)
    finished[finished.index(first)] = then
    robench(*finished, "--resume")
    only_begun(tmp_path / "out")
    words[words.index(first)] = then
    robench(*words, "--resume")
    assert tables(tmp_path / "out") == whole
    only_begun(tmp_path / "out")
    file = sorted((tree / "val").rglob("*.jpg"), key=lambda path: path.name)[1]
    Image.open(file).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(file, quality=92)
    said = refused(*words, "--resume")
    assert f"{file.parent.name}/{file.name} has changed since" in said
