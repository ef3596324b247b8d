"""Sequences on the disk: arrays as CIFAR-10-P, videos as ImageNet-P: what is recognised, read, refused."""

import sys

import numpy as np
import pytest
import torch
from needed import needed

from robench.core.errors import InputError
from robench.data import Choice
from robench.data.perturbed_sequences import holds_sequences, read_sequence_set


def arrays(top, n=6, size=8, labels=True, **lengths):
    """A folder of arrays; the first pixel of a frame tells sequence and place."""
    top.mkdir(parents=True, exist_ok=True)
    for name, t in (lengths or {"tilt": 5}).items():
        x = np.random.default_rng(t).integers(0, 256, (n, t, size, size, 3), dtype=np.uint8)
        x[:, :, 0, 0, 0], x[:, :, 0, 0, 1] = np.arange(n)[:, None], np.arange(t)
        np.save(top / f"{name}.npy", x)
    if labels:
        np.save(top / "labels.npy", np.arange(n) % 3)
    return top


def write_video(path, frames):
    """An .mp4 as the published generator makes it: x264 of RGB frames, in YUV 4:4:4."""
    av = needed("av")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=1, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv444p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def videos(top, names=("tilt", "shot_noise"), kinds=("n01440764", "n01443537"), count=2, t=4, size=32):
    """A tree of videos of one colour; red tells the place in the sorted list, green the frame."""
    for name in names:
        for number, kind in enumerate(kinds):
            for image in range(count):
                frames = np.zeros((t, size, size, 3), np.uint8)
                frames[..., 0], frames[..., 1] = 40 * (number * count + image), (50 * np.arange(t))[:, None, None]
                write_video(top / name / kind / f"ILSVRC2012_val_{image:08d}.mp4", frames)
    return top


def test_arrays_are_recognised_and_read_row_by_row(tmp_path):
    top = arrays(tmp_path / "CIFAR-10-P", gaussian_noise=7, gaussian_noise_2=7, tilt=5, translate=4)
    assert holds_sequences(top)
    data = read_sequence_set(top)
    assert (data.name, data.layout, data.shape, len(data)) == ("folder:CIFAR-10-P", "", (3, 8, 8), 6)
    assert data.cells == (("gaussian_noise", 1), ("translate", 1), ("tilt", 1))
    assert [data.lengths[cell] for cell in data.cells] == [7, 4, 5]
    rows = torch.tensor([4, 0])
    frames = data.frames("tilt", 1, rows)
    assert np.array_equal(frames.permute(0, 1, 3, 4, 2).numpy(), np.load(top / "tilt.npy")[rows.numpy()])
    assert (data.y.tolist(), data.classes) == ([0, 1, 2, 0, 1, 2], ("0", "1", "2"))
    assert data.rows(Choice(n=2)).tolist() == [0, 1]
    assert data.digest(rows) != data.digest(rows.flip(0))


def test_noises_of_a_higher_difficulty_have_files_of_their_own_and_others_are_stepped_through(tmp_path):
    top = arrays(tmp_path / "set", gaussian_noise=4, gaussian_noise_2=4, tilt=5)
    data = read_sequence_set(top, difficulties=(2,))
    assert np.array_equal(
        data.frames("gaussian_noise", 2, torch.arange(6)).numpy(), np.load(top / "gaussian_noise_2.npy").transpose(0, 1, 4, 2, 3)
    )
    assert np.array_equal(data.frames("tilt", 2, torch.arange(6)).numpy(), np.load(top / "tilt.npy").transpose(0, 1, 4, 2, 3))
    with pytest.raises(InputError, match="has no gaussian_noise_3: it holds"):
        read_sequence_set(top, difficulties=(3,))


def test_sets_without_labels_are_read_and_the_released_shape_has_its_layout(tmp_path):
    top = tmp_path / "mine"
    top.mkdir()
    np.lib.format.open_memmap(top / "tilt.npy", "w+", np.uint8, (10_000, 3, 32, 32, 3)).flush()
    data = read_sequence_set(top)
    assert (data.name, data.layout, data.y.unique().tolist(), len(data.classes)) == ("folder:mine-p", "cifar-p", [-1], 10)
    assert "has the layout of CIFAR-10-P or CIFAR-100-P" in data.notes[0]
    assert len(read_sequence_set(arrays(tmp_path / "CIFAR-100-P", labels=False)).classes) == 100


def test_corrupted_sets_and_other_folders_hold_no_sequences(tmp_path):
    np.save(tmp_path / "fog.npy", np.zeros((5, 4, 4, 3), np.uint8))
    np.save(tmp_path / "gaussian_noise.npy", np.zeros((5, 4, 4, 3), np.uint8))
    (tmp_path / "tree" / "brightness" / "1" / "n01").mkdir(parents=True)
    (tmp_path / "tree" / "brightness" / "1" / "n01" / "a.JPEG").touch()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "tilt.npy").write_bytes(b"none")
    for folder in (tmp_path, tmp_path / "tree", tmp_path / "absent", tmp_path / "broken"):
        assert not holds_sequences(folder)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda top: np.save(top / "scale.npy", np.zeros((7, 5, 8, 8, 3), np.uint8)),
            r"scale \(7, 5, 8, 8, 3\): all must be the same images",
        ),
        (lambda top: np.save(top / "scale.npy", np.zeros((6, 5, 8, 8, 3))), "holds float64"),
        (lambda top: np.save(top / "scale.npy", np.zeros((6, 8, 8, 3), np.uint8)), r"must be uint8, \(N, T, H, W, 3\)"),
        (lambda top: np.save(top / "scale.npy", np.zeros((6, 1, 8, 8, 3), np.uint8)), "has 1 frame: there are no two"),
        (lambda top: np.save(top / "labels.npy", np.arange(5)), "has 5 labels from 0 to 4 for 6 sequences"),
        (lambda top: (top / "tilt.npy").write_bytes((top / "tilt.npy").read_bytes()[:-1]), "was cut short|not a .npy"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, change, sentence):
    top = arrays(tmp_path / "set")
    change(top)
    with pytest.raises(InputError, match=sentence):
        read_sequence_set(top)


def test_what_is_not_there_cannot_be_asked_for(tmp_path):
    top = arrays(tmp_path / "set")
    for asked, sentence in (
        ({"names": ["tiltt"]}, "unknown perturbation 'tiltt': did you mean 'tilt'"),
        ({"names": ["scale"]}, "has no scale: it holds tilt"),
        ({"difficulties": (4,)}, "difficulties 1, 2 and 3, not 4"),
        ({"difficulties": (True,)}, "not True"),
    ):
        with pytest.raises(InputError, match=sentence):
            read_sequence_set(top, **asked)


@pytest.mark.parametrize("group", ["", "geometric"])
def test_videos_are_read_frame_by_frame_and_the_classes_take_turns(tmp_path, group):
    videos(tmp_path / "ImageNet-P" / group)
    assert holds_sequences(tmp_path / "ImageNet-P")
    data = read_sequence_set(tmp_path / "ImageNet-P")
    assert (data.name, data.cells) == ("folder:ImageNet-P", (("shot_noise", 1), ("tilt", 1)))
    assert (data.ids.tolist(), data.y.tolist(), data.classes) == ([0, 2, 1, 3], [0, 1, 0, 1], ("n01440764", "n01443537"))
    frames = data.frames("tilt", 1, torch.tensor([1, 3]))
    assert frames.shape == (2, 4, 3, 32, 32)
    expected = torch.tensor([[[80, 50 * t, 0] for t in range(4)], [[120, 50 * t, 0] for t in range(4)]])
    assert int((frames.amax((3, 4)).long() - expected).abs().max()) <= 3  # what x264 and the change of colours cost
    assert data.lengths == {("shot_noise", 1): 4, ("tilt", 1): 4}


def test_videos_above_224_pixels_are_cut_to_their_centre(tmp_path):
    frames = np.zeros((2, 240, 240, 3), np.uint8)
    frames[:, 8:232, 8:232] = 200
    write_video(tmp_path / "set" / "tilt" / "n01" / "a.mp4", frames)
    data = read_sequence_set(tmp_path / "set")
    assert data.shape == (3, 224, 224)
    assert int(data.frames("tilt", 1, torch.arange(1))[..., 4:-4, 4:-4].min()) > 190


def test_a_damaged_video_and_one_of_another_length_or_place_are_named(tmp_path):
    top = videos(tmp_path / "set", t=5)
    data = read_sequence_set(top)
    broken = top / "tilt" / "n01443537" / "ILSVRC2012_val_00000001.mp4"
    whole = broken.read_bytes()
    for content in (b"", b"not a video", whole[: len(whole) // 3]):
        broken.write_bytes(content)
        with pytest.raises(InputError, match=r"ILSVRC2012_val_00000001\.mp4 cannot be read as a video"):
            data.frames("tilt", 1, torch.arange(4))
    write_video(broken, np.zeros((3, 32, 32, 3), np.uint8))
    with pytest.raises(InputError, match=r"00000001\.mp4 has 3 frames of 32x32, and others have 5 of 32x32"):
        data.frames("tilt", 1, torch.arange(4))
    broken.rename(broken.with_name("other.mp4"))
    with pytest.raises(InputError, match=r"has not \(2 files differ\): all must be of the same images"):
        read_sequence_set(tmp_path / "set")


def test_without_pyav_a_sentence_says_what_to_install(tmp_path, monkeypatch):
    top = videos(tmp_path / "set")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InputError, match=r"pip install av"):
        read_sequence_set(top)
