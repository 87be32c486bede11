"""`psld sample` with bad input, and faults during sampling."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from psld.utils.tensors import save_tensors
from tests.commands import call, refused
from tests.results import sealed


@pytest.fixture
def copied(model, tmp_path):
    """A copy of the model to damage."""
    return shutil.copytree(model, tmp_path / "models" / "copied")


FREE = "guidance@sampler.guidance=classifier-free"
GUIDED = "guidance@sampler.guidance=classifier"
INPAINTING = "guidance@sampler.guidance=inpainting mask@sampler.guidance.mask"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("sampler.steps=1", "sampler…steps is 1; at least 2 are needed"),
        ("sampler=few sampler.steps=1 sampler.denoise=false", "sampler…steps is 1; at least 2 are"),
        ("sampler.final_time=1e-6", "sampler.final_time: 1e-06 is below…1e-05 or more"),
        ("sampler=ddim", "ddim…rk45"),
        ("sampler=sscs model=VP_SDE", "sscs…momentum"),
        ("sampler=rk45 sampler.precision=bf16", "bf16 exceeds the tolerance of rk45"),
        ("sampler=rk45 sampler.tolerance=1e-300", "tolerance…greater than or equal to 0.0"),
        ("first=-1", "first…greater than or equal to 0"),
        ("model=absent", "absent: no such model; there is no folder models/ here"),
        ("model=GUIDE", "not the manifest of a model, but of a guide"),
        ("png=m.jpg", "m.jpg: images go into a folder, or into a file that ends in .png"),
        (f"png={__file__}", "test_sample_errors.py: images go into a folder, or"),
        (f"png={__file__}/x/y.png", "test_sample_errors.py is not a writable folder"),
        (f"npz={__file__}/x.npz", "test_sample_errors.py is not a writable folder"),
        # By a guide.
        (GUIDED, "guide: sampler.guidance needs a path"),
        ("guide=GUIDE", "guide: sampler.guidance does not use"),
        (f"{GUIDED} guide=MODEL", "not the manifest of a guide, but of a model"),
        (
            f"{GUIDED} guide=GUIDE sampler.guidance.label=[3,three]",
            "no class three; give 0 to 9, a name or cycle (0, 1, 2,",
        ),
        # Without a classifier.
        (FREE, "needs a class-conditional model…training.label_dropout"),
        (f"{FREE} +sampler.guidance.speed=1", "unknown key sampler.guidance.speed"),
        # Inpainting.
        (f"{INPAINTING}=halves data=absent.h5", "absent.h5: no such file"),
        (f"{INPAINTING}=halves data=DIGITS sampler=rk45", "rk45 has none; use another sampler"),
        (f"{INPAINTING}=halves data=DIGITS sampler=few", "inpaint with start=prior"),
        (
            f"{INPAINTING}=halves data=DIGITS shard_size=100 first=4",
            "starts at image 400…test split…has 360",
        ),
        (f"{INPAINTING}=digits data=DIGITS mnist=absent.h5", "dataset=absent"),
    ],
)
def test_bad_settings_are_refused(model, vp_sde_model, guide, digits, tmp_path, words, said):
    given = f"model=MODEL output=x {words}"
    places = {"MODEL": model, "VP_SDE": vp_sde_model, "GUIDE": guide, "DIGITS": digits}
    for name, place in places.items():
        given = given.replace(f"={name}", f"={place}")
    refused(call(tmp_path, "sample", *given.split()), 2, *said.split("…"))
    assert list(tmp_path.iterdir()) == []


def test_damaged_and_foreign_models_are_named(copied, vp_sde_model, tmp_path):
    weights, manifest = copied / "weights.safetensors", copied / "manifest.json"
    whole = {path: path.read_bytes() for path in (weights, manifest)}

    def refused_with(path, content, *words):
        path.write_bytes(content)
        finished = call(tmp_path, "sample", f"model={copied}", "output=cell", "sampler.steps=2")
        refused(finished, 2, str(path), *words)
        assert not (tmp_path / "cell").exists()
        path.write_bytes(whole[path])

    refused_with(weights, whole[weights][:-10], "damaged weights file", "train the model")
    other = (vp_sde_model / "weights.safetensors").read_bytes()
    refused_with(weights, other, "differs from the recorded weights file")
    refused_with(manifest, whole[manifest][:-10], "not valid JSON")
    for foreign in (b"{}", b"[]", b"3", b'"settings weights_sha256"'):
        refused_with(manifest, foreign, "not the manifest of a model")
    weights.unlink()
    finished = call(tmp_path, "sample", f"model={copied}", "output=cell")
    refused(finished, 2, str(weights), "no such file", "train the model")


def write_weights(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Replace a model's weights and their digest in the manifest."""
    sha256 = save_tensors(folder / "weights.safetensors", "weights", tensors, {})
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(sealed(manifest | {"weights_sha256": sha256}))


def test_weights_of_another_network_do_not_load(copied, vp_sde_model, tmp_path):
    """This also holds if the manifest has the digest of these weights."""
    write_weights(copied, load_file(vp_sde_model / "weights.safetensors"))
    finished = call(tmp_path, "sample", f"model={copied}", "output=cell")
    refused(finished, 2, "weights.safetensors", "does not fit the network of its manifest")
    assert len(finished.stderr) < 500


def test_a_manifest_of_other_settings_than_its_weights_is_refused(copied, tmp_path):
    """The layers of a network fit images of any size."""
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["settings"]["dataset"]["image_size"] = 16
    (copied / "manifest.json").write_text(sealed(manifest))
    finished = call(tmp_path, "sample", f"model={copied}", "output=cell", "sampler.steps=2")
    refused(finished, 2, "weights.safetensors: its settings differ from those in the manifest")


def test_nan_in_the_weights_is_refused(copied, tmp_path):
    weights = load_file(copied / "weights.safetensors")
    next(iter(weights.values())).fill_(float("nan"))
    write_weights(copied, weights)
    options = (f"model={copied}", "output=cell", "sampler.steps=2", "shard_size=2", "first=4")
    refused(call(tmp_path, "sample", *options), 1, "shard 4", "NaN")
    assert not (tmp_path / "cell").exists()
