"""The animation of samplers: `python -m benchmarks.animation`."""

import sys

import numpy as np
from PIL import Image, ImageSequence

import psld
from benchmarks import animation
from psld.data.images import tiled


def frames_of(path) -> list[np.ndarray]:
    return [np.asarray(each.convert("RGB")) for each in ImageSequence.Iterator(Image.open(path))]


def test_every_evaluation_has_a_frame_and_the_end_is_the_samples(
    model, starts, tmp_path, monkeypatch
):
    monkeypatch.chdir(starts)
    output = tmp_path / "noise.webp"
    monkeypatch.setattr(sys, "argv", ["animation", str(model), str(output)])
    monkeypatch.setattr(animation, "IMAGES", 4)
    monkeypatch.setattr(animation, "COLUMNS", 2)
    animation.main()
    assert output.stat().st_size <= animation.LARGEST
    frames, images = frames_of(output), psld.load(model).sample(4, sampler="few", steps=3)
    sheet = tiled(images.numpy(), animation.COLUMNS).astype(float)
    height, width, _ = sheet.shape
    assert frames[0].shape[1] == 2 * width + animation.GAP
    differences = [np.abs(each[-height:, :width] - sheet).max() for each in frames]
    assert [each <= 1 for each in differences] == [False] * 3 + [True] * 98


def test_a_large_animation_leaves_evaluations_out_but_not_the_end(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (11, 64, 64, 1), np.uint8)
    rows = {"many": [[each] for each in noise], "few": [[each] for each in noise[:3]]}
    monkeypatch.setattr(animation, "LARGEST", 50_000)  # size of seven frames of this noise in bytes
    animation.animate(rows, tmp_path / "noise.webp")
    assert (tmp_path / "noise.webp").stat().st_size <= 50_000
    frames = frames_of(tmp_path / "noise.webp")
    assert len(frames) == 7
    assert (frames[-1] == np.asarray(animation.frame(rows, 10))).all()
