"""Samplers as parts: shipped samplers, their classes in a file outside of psld, and a custom
sampler."""

import pytest
import torch
from torch import nn

import psld
from psld.config.kinds import SHIPPED
from psld.config.settings import parse
from psld.diffusion.integrators import EulerMaruyama, Inpainting
from psld.diffusion.loop import path, sample
from psld.diffusion.samplers import SamplerSettings
from psld.diffusion.score import NetworkScore
from psld.networks.forward import forward_pass
from psld.sampling.model import ImageSampler
from psld.sampling.named import SamplerChoice, named_sampler
from psld.sampling.settings import sampler_content
from psld.sampling.shards import Shard
from psld.utils.batching import Batching
from psld.utils.errors import UserError
from tests.commands import call, refused, succeeded
from tests.diffusion.processes import phase_space
from tests.diffusion.sampling import end, gaussian, rk45, rms
from tests.parts.contract import here_and_outside
from tests.parts.own import edit

PROCESS = phase_space(0.02)
GRID = {"striding": "quadratic", "steps": 6}
OPTIONS = dict.fromkeys(SHIPPED["sampler"], GRID) | {"rk45": {"tolerance": 3e-2}}


def read(kind: str, options: dict) -> SamplerSettings:
    content = {"sampler": {"integrator": kind, **options}, "process": None}
    return parse(SamplerChoice, content, "test").sampler


class Network(nn.Module):
    """A network that counts its input images. Its output for an image does not depend on other
    images."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.seen = []

    def forward(self, z, t):
        self.seen.append(len(z))
        return torch.tanh(self.scale * z)


class Noise:
    """A source of zeros that counts the draws of a sampler and stores the announced number."""

    told = taken = 0

    def expect(self, draws):
        self.told = draws

    def __call__(self, z):
        self.taken += 1
        return torch.zeros_like(z)


def sampled(settings: SamplerSettings, first: int = 0, batch: int = 100):
    """Return five images from index `first` on, the number of evaluations, and the batch sizes of
    the network."""
    network = Network()
    given = {"eps": forward_pass(network, "fp32"), "network": network, "shape": (1, 4, 4)}
    sampler = ImageSampler(PROCESS, settings, batching=Batching(batch), **given)
    images, _, nfe = sampler.sample(range(first, first + 5), (0, first), silent=True)
    return images, nfe, network.seen


@pytest.mark.parametrize("kind", [*SHIPPED["sampler"], "heun:Heun", "churn:Heun"])
def test_the_contract_of_a_sampler(outside, kind):
    """Check each sampler, and the class of a shipped sampler in a file outside of psld, which makes
    the same images."""
    options, images = OPTIONS.get(kind, GRID), []
    for settings in here_and_outside(outside, SamplerSettings, kind, **options):
        assert sampler_content(settings) == settings.identity()
        # Images do not depend on the batch size or on earlier shards; evaluations are counted.
        whole, nfe, seen = sampled(settings)
        assert (whole.shape, whole.isfinite().all()) == ((5, 1, 4, 4), True)
        assert nfe == len(seen) == (settings.evaluations or nfe)
        images.append(whole)
    parts, nfe_of_parts, seen = sampled(settings, batch=2)
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)
    assert (nfe_of_parts, sum(seen), max(seen)) == (nfe, 5 * nfe, 2)
    sampled(settings, first=5)
    assert all(torch.equal(each, sampled(settings)[0]) for each in images)
    # The sampler announces its number of draws, also for inpainting.
    z, score = torch.zeros(1, 2, 4, 4), NetworkScore(lambda z, t: z, 1)
    for known in (None, Inpainting(PROCESS, z[:, :1], z[:, :1])):
        if known is None or not kind.startswith("rk45"):
            noise = Noise()
            sample(PROCESS, settings, score, z, noise, known, silent=True)
            assert noise.told == noise.taken
    # The error names a wrong value or key.
    with pytest.raises(UserError, match=r"test: sampler\.final_time: Input"):
        read(kind, {**options, "final_time": 2})
    with pytest.raises(UserError, match=r"test: unknown key sampler\.final_tim \(is sampl"):
        read(kind, {**options, "final_tim": 0.1})


@pytest.mark.parametrize(("steps", "denoise"), [(20, True), (21, False)])
def test_heun_s_method_makes_one_evaluation_per_step(outside, steps, denoise):
    """`evaluations` is the number of evaluations, and `noise_levels` is the range of their noise
    levels."""
    asked, settings = [], read("heun:Heun", {**GRID, "steps": steps, "denoise": denoise})
    data = gaussian(0.3, mean=0.5)

    def network(z, t):
        asked.append(float(t[0]))
        return data.network(PROCESS)(z, t)

    end(PROCESS, settings, network)
    assert len(asked) == settings.evaluations == steps
    levels = PROCESS.noise_level(torch.tensor(asked, dtype=torch.float64))
    low, high = settings.noise_levels(PROCESS)
    assert (float(levels.min()), float(levels.max())) == pytest.approx((low, high), rel=1e-5)
    count = settings.grid_steps + 1
    spaced = torch.logspace(0.5, -1, count).tolist()
    given = {**GRID, "steps": steps, "denoise": denoise, "start": "gaussian"}
    assert len(read("heun:Heun", given | {"levels": spaced}).time_grid(PROCESS)) == count
    with pytest.raises(UserError, match=f"{count} are needed for {steps} steps"):
        read("heun:Heun", given | {"levels": spaced[1:]})


def test_heun_s_method_has_order_two(outside):
    """Order two requires that the number and the levels of evaluations agree with the settings."""
    data, options = gaussian(0.3, mean=0.5), {"final_time": 0.05, "denoise": False}
    exact, errors = end(PROCESS, rk45(**options), data.network(PROCESS)), []
    for steps in (50, 100):
        settings = read("heun:Heun", {**GRID, "steps": steps, **options})
        errors.append(rms(end(PROCESS, settings, data.network(PROCESS)) - exact))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.15)


def test_heun_s_method_ends_with_a_step_of_its_ode(outside):
    settings, score = read("heun:Heun", GRID), NetworkScore(lambda z, t: z, 1)
    given = PROCESS, settings, score, torch.ones(1, 2, 4, 4), torch.zeros_like
    (_, before), (_, after) = list(path(*given, silent=True))[-2:]
    last = torch.tensor([settings.final_time, 0.0], dtype=torch.float64)
    step = EulerMaruyama(PROCESS, last, before.device, probability_flow=True)
    assert torch.equal(after, step.mean(0, before, score))


def test_an_unknown_setting_of_a_sampler_is_named(outside):
    with pytest.raises(UserError, match=r"unknown key sampler\.foo"):
        named_sampler("sample()", "heun:Heun", 6, {"foo": 1})


def test_heun_s_method_runs_from_the_command_line(outside, model):
    words = ("sampler=heun:Heun", "sampler.striding=quadratic", "sampler.steps=5", "shard_size=2")
    printed = succeeded(call(outside, "sample", *words, f"model={model}", "output=samples")).stdout
    assert "shard 0: 2 images, NFE 5" in printed


def test_evaluations_that_are_not_counted_are_refused_before_a_shard_is_written(outside, model):
    edit(outside / "heun.py", "self.denoise + 1) // 2", "self.denoise + 1) // 2 + 1")
    said = "sampler: heun:Heun with guidance none: takes 6 network evaluations, not 5; "
    words = ("striding=quadratic", "steps=5")
    refused(call(outside, "check", "heun:Heun", *words), 2, said)
    words = ("sampler=heun:Heun", *(f"sampler.{word}" for word in words), f"model={model}")
    refused(call(outside, "sample", *words, "shard_size=2", "output=samples"), 2, said)
    assert not list((outside / "samples").glob("*.safetensors"))


def test_the_global_generator_is_seeded_for_each_shard_and_restored(outside, model):
    edit(outside / "heun.py", "slope) / 2", "slope) / 2 + torch.randn_like(z)")
    edit(outside / "heun.py", "from psld.parts", "import torch\nfrom psld.parts")
    options = {"sampler": "heun:Heun", "steps": 5, "striding": "quadratic", "raw": True}
    loaded, before = psld.load(model), torch.get_rng_state()
    first = loaded.sample(2, seed=3, **options)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(loaded.sample(2, seed=3, **options), first)
    assert not torch.equal(loaded.sample(2, seed=4, **options), first)
    edit(outside / "heun.py", "return z + (end - z + slope) / 2 + ", "return ")
    words = ("sampler=heun:Heun", "sampler.steps=5", "sampler.striding=quadratic", "shards=2")
    words += (f"model={model}", "shard_size=2", "output=x")
    succeeded(call(outside, "sample", *words))
    shards = [Shard.load(outside / f"x/0000{i}.safetensors").images for i in (0, 1)]
    assert (shards[0] != shards[1]).any()


MISTAKES = {
    "return Steps(process": ("return Stops(process", "build: NameError: name 'Stops' is not"),
    "draws = 0": ("drawn = 0", "build: AttributeError: 'Steps' object has no attribute 'draws'"),
    "self.replacement_times": ("self.replaced", "build: AttributeError: 'Steps' object has no"),
    "return z + (end - z + slope) / 2": ("return slope[:1]", "step: ValueError: gives a tensor"),
    "2 * index": ("1 / 0 * index", "step: ZeroDivisionError: division by zero"),
}
