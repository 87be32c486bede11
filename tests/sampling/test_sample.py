"""`psld sample`: images that depend only on (model, sampler, seed, index)."""

import numpy as np
import torch

import psld.sampling.sample as sampling
from psld.sampling.model import load_model
from psld.sampling.settings import sampler_content
from psld.sampling.shards import Shard
from psld.utils.files import digest_of
from tests.commands import call, succeeded
from tests.results import weights_digest
from tests.sampling.cells import CPU, SAMPLERS, SIZE, check_same_images, sample, settings


def test_images_do_not_depend_on_the_batch_size(model):
    """The counted evaluations equal the evaluations of the network."""
    whole = sample(model, *SAMPLERS["em"], "batch_size=500")
    assert whole.images.shape == (SIZE, 1, 8, 8)
    assert whole.images.std() > 20
    loaded, batches = load_model(model, CPU), []
    loaded.network.register_forward_hook(lambda *call: batches.append(len(call[2])))
    parts = sample(model, *SAMPLERS["em"], "batch_size=3", loaded=loaded)
    check_same_images(parts, whole)
    assert (sum(batches), max(batches)) == (whole.nfe * SIZE, 3)
    assert parts.nfe == whole.nfe == 6


def test_images_do_not_depend_on_what_was_sampled_before(model):
    sampler = SAMPLERS["em"]
    alone = sample(model, *sampler, "first=1")
    loaded = load_model(model, CPU)
    torch.manual_seed(1234)
    together = [sample(model, *sampler, f"first={index}", loaded=loaded) for index in range(3)]
    np.testing.assert_array_equal(together[1].images, alone.images)
    distinct = {image.tobytes() for shard in together for image in shard.images}
    assert len(distinct) == 3 * SIZE, "every sample of a cell has noise of its own"


def test_the_command_writes_the_shard_and_its_origin(model, tmp_path):
    options = (f"model={model}", *SAMPLERS["sscs"], "first=2", "seed=5", f"shard_size={SIZE}")
    finished = succeeded(call(tmp_path, "sample", *options, "output=cell"))
    assert finished.stdout == "shard 2: 8 images, NFE 6\nwrote cell/00002-00002.json\n"
    shard = Shard.load(tmp_path / "cell" / "00002.safetensors")
    same = sample(model, *options)
    np.testing.assert_array_equal(shard.images, same.images)
    assert shard.origin == same.origin
    assert (shard.origin.index, shard.origin.seed, shard.origin.size) == (2, 5, SIZE)
    assert shard.origin.weights_sha256 == weights_digest(model)
    sampler = settings(model, *SAMPLERS["sscs"]).sampler
    assert shard.origin.sampler_digest == digest_of(sampler_content(sampler))
    assert shard.seconds > 0
    assert shard.device.startswith("CPU")


def test_batch_size_and_device_are_not_in_the_origin(model):
    one, other = (sample(model, *SAMPLERS["em"], *more) for more in ((), ("batch_size=7",)))
    assert one.origin == other.origin
    assert one.origin != sample(model, *SAMPLERS["em"], "sampler.denoise=false").origin


# --- precision and speed --------------------------------------------------------------------------


def in_process(model, *overrides: str) -> Shard:
    """Return the first shard, as the command makes it."""
    given = settings(model, "device=cpu", *overrides)
    [(shard, _)] = sampling.sample_shards(given, *sampling.load_cell(given))
    return shard


def test_bf16_changes_the_origin_and_hardly_changes_the_images(model, tmp_path):
    """The network computes in bfloat16, and the state stays in float32."""
    options = (*SAMPLERS["em"], "sampler.final_time=0.3", "sampler.denoise=false")
    plain = in_process(model, *options, f"output={tmp_path}/plain")
    half = in_process(model, *options, "sampler.precision=bf16", f"output={tmp_path}/half")
    assert half.origin != plain.origin
    sampler = settings(model, *options, "sampler.precision=bf16").sampler
    before = sampler.model_dump(mode="json", exclude_none=True, exclude={"start"})
    assert half.origin.sampler_digest != digest_of(before), "when norms stayed in fp32"
    difference = np.abs(half.images.astype(int) - plain.images)
    assert 0 < difference.max() < 64
    assert difference.mean() < 4


def test_compilation_changes_no_image_and_no_origin(model, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda network, **_: compiled.append(network) or network)
    plain = in_process(model, *SAMPLERS["em"], f"output={tmp_path}/plain")
    assert not compiled
    fast = in_process(model, *SAMPLERS["em"], "compile=true", f"output={tmp_path}/fast")
    check_same_images(fast, plain)
    assert fast.origin == plain.origin
    assert len(compiled) == 1


def test_a_cell_is_loaded_with_its_batch_size_and_the_arithmetic_of_networks(model, monkeypatch):
    """On GPUs, only the network uses TF32."""
    asked, use = [], sampling.use_device
    monkeypatch.setattr(
        sampling, "use_device", lambda *given, **more: asked.append(more) or use(*given, **more)
    )
    _, sampler, _ = sampling.load_cell(settings(model, *SAMPLERS["em"], "batch_size=5"))
    assert sampler.batching.size == 5
    assert asked == [{"tf32": True}]


def test_out_of_memory_occurs_once_for_all_shards(model, tmp_path, monkeypatch, capsys):
    """The images equal the images of a run that starts with small batches."""
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
    shards = [shard for shard, _ in sampling.sample_shards(given, *sampling.load_cell(given))]
    assert failed == [SIZE, SIZE // 2]
    assert capsys.readouterr().err.count("out of memory with") == 2
    monkeypatch.undo()
    same = sample(model, *SAMPLERS["em"], f"batch_size={SIZE // 4}", "first=1")
    np.testing.assert_array_equal(shards[1].images, same.images)
