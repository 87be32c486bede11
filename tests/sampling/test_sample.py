"""`psld sample`: images that depend only on (model, sampler, seed, index)."""

import json
import shutil
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import psld.sampling.sample as sampling
from psld.config.compose import compose_content
from psld.config.settings import parse
from psld.diffusion.score import Batching
from psld.sampling.sample import origin_of, sample_shard
from psld.sampling.settings import SampleSettings
from psld.sampling.shards import Shard
from psld.training.model import Model, load_model
from psld.utils.files import digest_of, read_json, sha256_of_file
from tests.commands import (
    call,
    command,
    disk_full_after,
    files_below,
    refused,
    started,
    succeeded,
)
from tests.results import sealed

CPU = torch.device("cpu")
SIZE = 8
SAMPLERS = {
    "em": ("sampler=em", "sampler.steps=6", "sampler.striding=quadratic"),
    "sscs": ("sampler=sscs", "sampler.steps=6"),
    "rk45": ("sampler=rk45", "sampler.tolerance=3e-2"),
    "multistep": ("sampler=multistep", "sampler.steps=6", "sampler.eta=1"),
    "gddim": ("sampler=gddim", "sampler.steps=6"),
    "conjugate": ("sampler=conjugate", "sampler.steps=6"),
}


def settings(model, *overrides: str) -> SampleSettings:
    small = (f"shard_size={SIZE}", f"model={model}", "output=x")
    content = compose_content("sample", [*small, *overrides], "test")
    return parse(SampleSettings, content, "test")


def sample(model, *overrides: str, loaded: Model | None = None) -> Shard:
    """The first shard of the settings' range."""
    given = settings(model, *overrides)
    origin = replace(origin_of(given), index=given.first)
    batching = Batching(given.batch_size)
    return sample_shard(given, loaded or load_model(model, CPU), None, origin, batching)


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
    alone = sample(model, *sampler, "first=1")
    loaded = load_model(model, CPU)
    torch.manual_seed(1234)
    together = [sample(model, *sampler, f"first={index}", loaded=loaded) for index in range(3)]
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
    shard = sample(model, *sampler, "batch_size=5", loaded=loaded)
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
    options = (f"model={model}", *SAMPLERS["sscs"], "first=2", "seed=5", f"shard_size={SIZE}")
    finished = succeeded(call(tmp_path, "sample", *options, "output=cell"))
    assert finished.stdout == "shard 2: 8 images, NFE 6\nwrote cell/00002-00002.json\n"
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


# --- precision and speed --------------------------------------------------------------------------


def in_process(model, *overrides: str) -> Shard:
    """The first shard, as the command makes it."""
    [(shard, _)] = sampling.sample_shards(settings(model, "device=cpu", *overrides))
    return shard


def test_bf16_is_another_sampler_with_nearly_the_same_images(model, tmp_path):
    """Its network computes in bfloat16; the state stays in float32."""
    options = (*SAMPLERS["em"], "sampler.final_time=0.3", "sampler.denoise=false")
    plain = in_process(model, *options, f"output={tmp_path}/plain")
    half = in_process(model, *options, "sampler.precision=bf16", f"output={tmp_path}/half")
    assert half.origin != plain.origin
    difference = np.abs(half.images.astype(int) - plain.images)
    assert 0 < difference.max() < 64
    assert difference.mean() < 4


def test_without_bf16_a_samplers_identity_does_not_name_it(model):
    assert "precision" not in settings(model, *SAMPLERS["em"]).sampler.model_dump(mode="json")
    half = settings(model, *SAMPLERS["em"], "sampler.precision=bf16").sampler
    assert half.model_dump(mode="json")["precision"] == "bf16"
    assert type(half).model_validate(half.model_dump(mode="json")) == half


def test_layout_and_compilation_change_no_image_and_no_origin(model, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda network: compiled.append(network) or network)
    plain = in_process(model, *SAMPLERS["em"], f"output={tmp_path}/plain")
    assert not compiled
    fast = in_process(
        model, *SAMPLERS["em"], "compile=true", "channels_last=true", f"output={tmp_path}/fast"
    )
    check_same_images(fast, plain)
    assert fast.origin == plain.origin
    [network] = compiled
    kernels = [weight for weight in network.parameters() if weight.dim() == 4]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in kernels)


def test_adaptive_steps_refuse_bf16(model, tmp_path):
    options = (f"model={model}", *SAMPLERS["rk45"], "sampler.precision=bf16", "output=cell")
    refused(call(tmp_path, "sample", *options), 2, "bf16", "above the tolerances of rk45")


def test_out_of_memory_is_found_out_once_for_all_shards(model, tmp_path, monkeypatch, capsys):
    """And the images are those of small batches from the start."""
    load, failed = sampling.load_model, []

    def small_device(*arguments):
        loaded = load(*arguments)

        def check(network, given):
            if len(given[0]) > 3:
                failed.append(len(given[0]))
                raise torch.OutOfMemoryError("CUDA out of memory.")

        loaded.network.register_forward_pre_hook(check)
        return loaded

    monkeypatch.setattr(sampling, "load_model", small_device)
    given = settings(model, *SAMPLERS["em"], "shards=2", "device=cpu", f"output={tmp_path}/cell")
    shards = [shard for shard, _ in sampling.sample_shards(given)]
    assert failed == [SIZE, SIZE // 2]
    assert capsys.readouterr().err.count("out of GPU memory") == 2
    monkeypatch.undo()
    same = sample(model, *SAMPLERS["em"], f"batch_size={SIZE // 4}", "first=1")
    np.testing.assert_array_equal(shards[1].images, same.images)


# --- a range of shards ----------------------------------------------------------------------------

RANGE = ("sampler=em", "sampler.steps=3", f"shard_size={SIZE}", "output=cell")


@pytest.fixture(scope="module")
def three(model, tmp_path_factory):
    """A folder in whose `cell` one process has made three shards."""
    folder = tmp_path_factory.mktemp("three")
    succeeded(call(folder, "sample", *RANGE, f"model={model}", "shards=3"))
    return folder


@pytest.fixture
def cell(three, tmp_path):
    """A copy of the folder to damage."""
    return shutil.copytree(three, tmp_path / "copy") / "cell"


def names_in(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def resample(cell, model, *overrides: str) -> str:
    """What the command says."""
    arguments = (*RANGE, f"model={model}", *overrides)
    return succeeded(call(cell.parent, "sample", *arguments)).stdout


def test_one_process_makes_what_one_for_each_shard_makes(three, model, tmp_path):
    assert names_in(three / "cell") == ["00000-00002.json", "00000.h5", "00001.h5", "00002.h5"]
    for index in range(3):
        whole = Shard.load(three / "cell" / f"{index:05d}.h5")
        options = (*RANGE, f"model={model}", f"first={index}")
        succeeded(call(tmp_path, "sample", *options))
        alone = Shard.load(tmp_path / "cell" / f"{index:05d}.h5")
        np.testing.assert_array_equal(alone.images, whole.images)
        assert alone.origin == whole.origin


def test_the_model_is_loaded_once_for_a_range(model, tmp_path, monkeypatch):
    loaded = []
    load = sampling.load_model
    monkeypatch.setattr(sampling, "load_model", lambda *args: loaded.append(1) or load(*args))
    succeeded(call(tmp_path, "sample", *RANGE, f"model={model}", "shards=3"))
    assert len(loaded) == 1


def test_the_record_says_which_shards_there_are(three):
    record = read_json(three / "cell" / "00000-00002.json")
    shards = [Shard.load(three / "cell" / f"{index:05d}.h5") for index in range(3)]
    assert record["shards"] == [
        {"index": shard.origin.index, "digest": shard.content_digest(), "images": SIZE}
        for shard in shards
    ]


def test_whole_shards_are_kept_however_they_are_divided_among_processes(cell, model):
    before = files_below(cell)
    assert resample(cell, model, "shards=3").startswith("shard 0: is there\nshard 1: is there\n")
    assert files_below(cell) == before
    said = resample(cell, model, "first=1", "shards=3").splitlines()
    assert said[:3] == ["shard 1: is there", "shard 2: is there", "shard 3: 8 images, NFE 3"]
    after = files_below(cell)
    assert before.items() <= after.items()
    assert after.keys() - before.keys() == {"00003.h5", "00001-00003.json"}


def test_what_is_missing_damaged_or_of_another_origin_is_made_again(cell, model):
    """And nothing else; the images come out as they were."""
    images = [Shard.load(cell / f"{index:05d}.h5").images for index in range(3)]
    kept = (cell / "00002.h5").read_bytes()
    (cell / "00000.h5").unlink()
    whole = (cell / "00001.h5").read_bytes()
    for damaged in (whole[:-100], whole.replace(images[1].tobytes(), images[0].tobytes()), b""):
        assert damaged != whole
        (cell / "00001.h5").write_bytes(damaged)
        said = resample(cell, model, "shards=3").splitlines()
        assert "is there" not in said[1]
        assert said[2] == "shard 2: is there"
    assert (cell / "00002.h5").read_bytes() == kept
    for index in range(3):
        np.testing.assert_array_equal(Shard.load(cell / f"{index:05d}.h5").images, images[index])
    said = resample(cell, model, "shards=3", "seed=1")
    assert "is there" not in said
    assert not np.array_equal(Shard.load(cell / "00000.h5").images, images[0])


def test_a_killed_range_loses_the_shard_under_way_alone(model, tmp_path):
    """Really killed; the same command makes the others, and the shards are those of a calm run."""
    slow = (f"model={model}", "sampler=em", "sampler.steps=100", f"shard_size={SIZE}", "shards=20")
    cell = tmp_path / "cell"
    with started(tmp_path, command("sample", *slow, "output=cell")) as process:
        while not (cell / "00002.h5").exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    made = sorted(cell.glob("*.h5"))
    assert 3 <= len(made) < 20, "it was killed on the way"
    assert not list(cell.glob("*.json")), "the record comes last"
    for path in made:
        Shard.load(path)
    before = {path: path.read_bytes() for path in made}
    said = succeeded(call(tmp_path, "sample", *slow, "output=cell")).stdout.splitlines()
    assert [line for line in said if line.endswith("is there")] == [
        f"shard {index}: is there" for index in range(len(made))
    ]
    assert {path: path.read_bytes() for path in made} == before
    assert names_in(cell) == ["00000-00019.json", *(f"{index:05d}.h5" for index in range(20))]
    last = len(made)
    same = sample(model, *slow, f"first={last}")
    np.testing.assert_array_equal(Shard.load(cell / f"{last:05d}.h5").images, same.images)


def test_a_failed_range_keeps_the_shards_before_the_failure(model, tmp_path, monkeypatch):
    make = sampling.sample_shard

    def fail_at_two(settings, model, guide, origin, *rest):
        shard = make(settings, model, guide, origin, *rest)
        if origin.index == 2:
            raise sampling.RunError("shard 2: the sampler produced NaN or infinity")
        return shard

    monkeypatch.setattr(sampling, "sample_shard", fail_at_two)
    finished = call(tmp_path, "sample", *RANGE, f"model={model}", "shards=4")
    refused(finished, 1, "shard 2")
    assert names_in(tmp_path / "cell") == ["00000.h5", "00001.h5"]


# --- pictures -------------------------------------------------------------------------------------


def test_pictures_are_written_next_to_the_shards(model, tmp_path):
    """Each image as a file, also of shards that are there already, or all in one."""
    options = (*RANGE, f"model={model}")
    succeeded(call(tmp_path, "sample", *options))
    succeeded(call(tmp_path, "sample", *options, "shards=2", "png=pictures"))
    shards = [Shard.load(tmp_path / "cell" / f"{index:05d}.h5") for index in range(2)]
    images = np.concatenate([shard.images for shard in shards])
    assert names_in(tmp_path / "pictures") == [f"{index:05d}.png" for index in range(2 * SIZE)]
    for index, image in enumerate(images):
        with Image.open(tmp_path / "pictures" / f"{index:05d}.png") as picture:
            np.testing.assert_array_equal(np.asarray(picture), image[0])
    succeeded(call(tmp_path, "sample", *options, "shards=2", "png=all.png"))
    with Image.open(tmp_path / "all.png") as picture:
        assert picture.size == (4 * 9 + 1, 4 * 9 + 1)
        np.testing.assert_array_equal(np.asarray(picture)[1:9, 10:18], images[1, 0])


# --- bad input and faults -----------------------------------------------------------------------


@pytest.fixture
def copied(model, tmp_path):
    """A copy of the model to damage."""
    return shutil.copytree(model, tmp_path / "models" / "copied")


def test_a_process_without_momentum_has_no_splitting_sampler(vp_sde_model, tmp_path):
    options = (f"model={vp_sde_model}", *SAMPLERS["sscs"], "output=cell")
    refused(call(tmp_path, "sample", *options), 2, "sscs", "momentum")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("sampler.steps=1", ("sampler.steps", "greater than or equal to 2")),
        ("sampler.striding=cubic", ("sampler.striding", "'uniform'", "'quadratic'")),
        ("+sampler.tolerance=1e-3", ("unknown key sampler.tolerance",)),
        ("sampler=ddim", ("ddim", "rk45")),
        ("first=-1", ("first", "greater than or equal to 0")),
        ("shards=0", ("shards", "greater than or equal to 1")),
        ("shard_size=0", ("shard_size",)),
        ("model=absent", ("absent/manifest.json: no such file",)),
    ],
)
def test_bad_settings_are_refused(model, tmp_path, override, words):
    options = (f"model={model}", "output=cell", override)
    refused(call(tmp_path, "sample", *options), 2, *words)
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

    refused_with(weights, whole[weights][:-10], "damaged")
    refused_with(weights, b"", "damaged")
    flipped = bytearray(whole[weights])
    flipped[-1] ^= 1
    refused_with(weights, flipped, "damaged")
    refused_with(weights, (vp_sde_model / "weights.safetensors").read_bytes(), "not the file that")
    refused_with(manifest, whole[manifest][:-10], "not valid JSON")
    for foreign in (b"{}", b"[]", b"3", b'"settings weights_sha256"'):
        refused_with(manifest, foreign, "not the manifest of a model")
    weights.unlink()
    finished = call(tmp_path, "sample", f"model={copied}", "output=cell")
    refused(finished, 2, str(weights), "train the model")


def test_weights_of_another_network_do_not_load(copied, vp_sde_model, tmp_path):
    """Also where the manifest vouches for them."""
    shutil.copy(vp_sde_model / "weights.safetensors", copied)
    vouch_for(copied)
    finished = call(tmp_path, "sample", f"model={copied}", "output=cell")
    refused(finished, 2, "weights.safetensors", "does not fit the network of its manifest")
    assert len(finished.stderr) < 500


def vouch_for(folder) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["weights_sha256"] = sha256_of_file(folder / "weights.safetensors")
    (folder / "manifest.json").write_text(sealed(manifest))


def test_nan_is_no_image(copied, tmp_path):
    weights = load_file(copied / "weights.safetensors")
    next(iter(weights.values())).fill_(float("nan"))
    save_file(weights, copied / "weights.safetensors")
    vouch_for(copied)
    options = (f"model={copied}", "output=cell", "sampler.steps=2", "shard_size=2", "first=4")
    refused(call(tmp_path, "sample", *options), 1, "shard 4", "NaN")
    assert not (tmp_path / "cell").exists()


def test_a_full_disk_keeps_the_older_shard(model, tmp_path):
    options = (f"model={model}", "output=cell", "sampler.steps=2", "shard_size=8")
    succeeded(call(tmp_path, "sample", *options))
    before = files_below(tmp_path)
    with disk_full_after(1000):
        finished = call(tmp_path, "sample", *options, "seed=1")
    refused(finished, 1, "00000.h5", "cannot be written (File too large)")
    assert files_below(tmp_path) == before
