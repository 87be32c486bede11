"""`psld sample`: images that depend on (model, sampler, seed, index) and nothing else."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from psld.commands.entry import CONFIGS
from psld.grid.resolution import Composer
from psld.utils.files import digest_of, sha256_of_file
from psld.training.model import load_model
from psld.commands.sample import sample_shard
from psld.sampling.settings import SampleSettings
from psld.sampling.shards import Shard
from psld.config.settings import parse
from tests.commands import call, disk_full_after, files_below, refused, succeeded

CPU = torch.device("cpu")
SIZE = 8
SAMPLERS = {
    "em": ("sampler=em", "sampler.steps=6", "sampler.striding=quadratic"),
    "sscs": ("sampler=sscs", "sampler.steps=6"),
    "rk45": ("sampler=rk45", "sampler.tolerance=3e-2"),
}


def settings(model, *overrides: str) -> SampleSettings:
    small = (f"shard_size={SIZE}", f"model={model}", "output=x")
    content = Composer(CONFIGS).content("sample", [*small, *overrides], "test")
    return parse(SampleSettings, content, "test")


def sample(model, *overrides: str) -> Shard:
    return sample_shard(load_model(model, CPU), settings(model, *overrides), CPU)


def check_same_images(one: Shard, other: Shard) -> None:
    """Equal up to the order of sums in the convolutions: one level, in a pixel of a thousand."""
    difference = np.abs(one.images.astype(int) - other.images.astype(int))
    assert difference.max() <= 1
    assert (difference > 0).mean() <= 1e-3


@pytest.fixture(params=SAMPLERS.values(), ids=SAMPLERS)
def sampler(request):
    return request.param


def test_images_do_not_depend_on_the_batch_size(model, sampler):
    whole = sample(model, *sampler, "batch_size=500")
    assert whole.images.shape == (SIZE, 1, 8, 8)
    assert whole.images.std() > 20
    for batch_size in (3, 1):
        parts = sample(model, *sampler, f"batch_size={batch_size}")
        check_same_images(parts, whole)
        assert parts.nfe == whole.nfe


def test_images_do_not_depend_on_what_was_sampled_before(model, sampler):
    alone = sample(model, *sampler, "shard=1")
    loaded = load_model(model, CPU)
    torch.manual_seed(1234)
    together = [
        sample_shard(loaded, settings(model, *sampler, f"shard={index}"), CPU) for index in range(3)
    ]
    np.testing.assert_array_equal(together[1].images, alone.images)
    distinct = {image.tobytes() for shard in together for image in shard.images}
    assert len(distinct) == 3 * SIZE, "every sample of a cell has noise of its own"


def test_another_seed_gives_other_images(model):
    one, other = (sample(model, *SAMPLERS["em"], f"seed={seed}") for seed in (0, 1))
    assert not np.array_equal(one.images, other.images)


def test_the_counted_evaluations_are_those_of_the_network(model, sampler):
    loaded = load_model(model, CPU)
    batches = []
    loaded.network.register_forward_hook(lambda *call: batches.append(len(call[2])))
    shard = sample_shard(loaded, settings(model, *sampler, "batch_size=5"), CPU)
    assert sum(batches) == shard.nfe * SIZE
    assert max(batches) == 5
    if "sampler.steps=6" in sampler:
        assert shard.nfe == 6
    else:
        assert shard.nfe % 6 in (0, 1, 2, 3), "six a step, some to start, one to denoise"


def test_a_tolerance_is_met_by_the_whole_shard(model):
    """The adaptive steps are decided by shard, so a tighter tolerance costs more."""
    costs = [
        sample(model, "sampler=rk45", f"sampler.tolerance={tolerance}").nfe
        for tolerance in ("1e-1", "1e-2", "1e-3")
    ]
    assert costs == sorted(set(costs))


def test_the_command_writes_the_shard_and_its_origin(model, tmp_path):
    options = (f"model={model}", *SAMPLERS["sscs"], "shard=2", "seed=5", f"shard_size={SIZE}")
    finished = succeeded(call(tmp_path, "sample", *options, "output=cell/00002.h5"))
    assert finished.stdout == "wrote cell/00002.h5: 8 images, NFE 6\n"
    shard = Shard.load(tmp_path / "cell" / "00002.h5")
    same = sample(model, *options)
    np.testing.assert_array_equal(shard.images, same.images)
    assert shard.origin == same.origin
    assert (shard.origin.index, shard.origin.seed, shard.origin.size) == (2, 5, SIZE)
    assert shard.origin.weights_sha256 == sha256_of_file(model / "weights.safetensors")
    sampler = settings(model, *SAMPLERS["sscs"]).sampler
    assert shard.origin.sampler_digest == digest_of(sampler.model_dump(mode="json"))
    assert shard.seconds > 0
    assert shard.device.startswith("CPU")


def test_batch_size_and_device_are_no_part_of_the_origin(model):
    one, other = (sample(model, *SAMPLERS["em"], *more) for more in ((), ("batch_size=7",)))
    assert one.origin == other.origin
    assert one.origin != sample(model, *SAMPLERS["em"], "sampler.denoise=false").origin


# --- bad input and faults -----------------------------------------------------------------------


@pytest.fixture
def copied(model, tmp_path):
    """A copy of the model to damage."""
    return shutil.copytree(model, tmp_path / "models" / "copied")


def test_a_process_without_momentum_has_no_splitting_sampler(vp_sde_model, tmp_path):
    options = (f"model={vp_sde_model}", *SAMPLERS["sscs"], "output=0.h5")
    refused(call(tmp_path, "sample", *options), 2, "sscs", "momentum")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("sampler.steps=1", ("sampler.steps", "greater than or equal to 2")),
        ("sampler.striding=cubic", ("sampler.striding", "'uniform'", "'quadratic'")),
        ("+sampler.tolerance=1e-3", ("unknown key sampler.tolerance",)),
        ("sampler=ddim", ("ddim", "rk45")),
        ("shard=-1", ("shard",)),
        ("shard_size=0", ("shard_size",)),
        ("model=absent", ("absent/manifest.json: no such file",)),
    ],
)
def test_bad_settings_are_refused(model, tmp_path, override, words):
    options = (f"model={model}", "output=0.h5", override)
    refused(call(tmp_path, "sample", *options), 2, *words)
    assert list(tmp_path.iterdir()) == []


def test_damaged_and_foreign_models_are_named(copied, vp_sde_model, tmp_path):
    weights, manifest = copied / "weights.safetensors", copied / "manifest.json"
    whole = {path: path.read_bytes() for path in (weights, manifest)}

    def refused_with(path, content, *words):
        path.write_bytes(content)
        finished = call(tmp_path, "sample", f"model={copied}", "output=0.h5", "sampler.steps=2")
        refused(finished, 2, str(path), *words)
        assert not (tmp_path / "0.h5").exists()
        path.write_bytes(whole[path])

    refused_with(weights, whole[weights][:-10], "damaged")
    refused_with(weights, b"", "damaged")
    flipped = bytearray(whole[weights])
    flipped[-1] ^= 1
    refused_with(weights, flipped, "damaged")
    refused_with(weights, (vp_sde_model / "weights.safetensors").read_bytes(), "not the weights")
    refused_with(manifest, whole[manifest][:-10], "not valid JSON")
    for foreign in (b"{}", b"[]", b"3", b'"settings weights_sha256"'):
        refused_with(manifest, foreign, "not the manifest of a model")
    weights.unlink()
    finished = call(tmp_path, "sample", f"model={copied}", "output=0.h5")
    refused(finished, 2, str(weights), "train the model")


def test_weights_of_another_network_do_not_load(copied, vp_sde_model, tmp_path):
    """Also where the manifest vouches for them."""
    shutil.copy(vp_sde_model / "weights.safetensors", copied)
    vouch_for(copied)
    finished = call(tmp_path, "sample", f"model={copied}", "output=0.h5")
    refused(finished, 2, "weights.safetensors", "does not fit the network of its manifest")


def vouch_for(folder) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["weights_sha256"] = sha256_of_file(folder / "weights.safetensors")
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_nan_is_no_image(copied, tmp_path):
    weights = load_file(copied / "weights.safetensors")
    next(iter(weights.values())).fill_(float("nan"))
    save_file(weights, copied / "weights.safetensors")
    vouch_for(copied)
    options = (f"model={copied}", "output=0.h5", "sampler.steps=2", "shard_size=2", "shard=4")
    refused(call(tmp_path, "sample", *options), 1, "shard 4", "NaN")
    assert not (tmp_path / "0.h5").exists()


def test_a_full_disk_keeps_the_older_shard(model, tmp_path):
    options = (f"model={model}", "output=0.h5", "sampler.steps=2", "shard_size=8")
    succeeded(call(tmp_path, "sample", *options))
    before = files_below(tmp_path)
    with disk_full_after(1000):
        finished = call(tmp_path, "sample", *options, "seed=1")
    refused(finished, 1, "0.h5", "cannot be written (File too large)")
    assert files_below(tmp_path) == before
