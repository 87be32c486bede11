"""Complete trajectories, compared with the official samplers, with the official noise."""

import numpy as np
import pytest
import torch

from psld.diffusion.integrators import Inpainting
from psld.diffusion.loop import sample
from psld.diffusion.samplers import EMSettings, RK45Settings
from psld.diffusion.score import GuidedScore, NetworkScore, class_gradient
from tests.diffusion.processes import phase_space, vp_sde
from tests.diffusion.sampling import sde
from tests.reference import load, mass_inverse, reference_files


def stand_in(predicted: slice, channels: int):
    """ε(u, t) = tanh(0.7 u) + 0.2 sin(3 t); CLD uses the momentum channels."""
    kept = slice(predicted.start * channels, predicted.stop * channels)
    return lambda u, t: (torch.tanh(0.7 * u) + 0.2 * torch.sin(3 * t[:, None, None, None]))[:, kept]


def process_of(v):
    if "vp" in v and bool(v["vp"]):
        return vp_sde()
    return phase_space(float(v["gamma"]), mass_inverse=mass_inverse(v))


def noises(v):
    """Return the official noise in the order in which an integrator draws it."""
    if str(v["sampler"]) == "bb_ode":
        return []
    if str(v["sampler"]) == "sscs_sde":
        pairs = zip(v["noise_first_half"], v["noise_second_half"], strict=True)
        return [half for pair in pairs for half in pair]
    return v["noise"]


@pytest.mark.parametrize("path", reference_files("sampler_*.npz"), ids=lambda path: path.stem)
def test_samplers_agree_with_the_reference(path):
    v = load(path)
    process = process_of(v)
    if str(v["sampler"]) == "bb_ode":
        settings = RK45Settings(integrator="rk45", tolerance=float(v["ode"]))
    else:
        settings = sde(
            {"em_sde": "em", "sscs_sde": "sscs"}[str(v["sampler"])],
            striding=str(v["stride"]),
            steps=int(v["n_steps_incl_denoise"]),
        )
        reverse_times = 1 - settings.time_grid(process)
        np.testing.assert_allclose(reverse_times, v["ts"], rtol=1e-12, atol=1e-12)
    z = torch.from_numpy(v["z"])
    queue, noise = replay(noises(v))
    score = NetworkScore(stand_in(process.predicted, z.shape[1] // process.blocks), batch_size=2)
    result = sample(process, settings, score, z, noise)
    assert next(queue, None) is None, "not all of the official noise was used"
    tolerance = 2e-3 if str(v["sampler"]) == "bb_ode" else 1e-4
    np.testing.assert_allclose(result, v["result"], rtol=tolerance, atol=tolerance)
    if "nfe" in v:
        # Because of rounding, a step of six evaluations may be accepted or rejected unlike in the
        # official run.
        assert score.evaluations == pytest.approx(int(v["nfe"]), abs=12)
    else:
        assert score.evaluations == settings.evaluations == settings.steps


def em_settings(v) -> EMSettings:
    """Euler–Maruyama on the grid whose reverse times are in the vector."""
    steps = int(v["n_steps_incl_denoise"])
    for striding in ("uniform", "quadratic"):
        settings = EMSettings(integrator="em", striding=striding, steps=steps)
        if np.allclose(1 - settings.time_grid(process_of(v)), v["ts"], rtol=1e-9, atol=1e-12):
            return settings
    raise AssertionError(f"no striding gives the times {v['ts']}")


def replay(noises):
    """Returns the official noise, one array per call."""
    queue = iter(noises)
    return queue, lambda state: torch.from_numpy(next(queue)).to(state)


@pytest.mark.parametrize("path", reference_files("guided_*.npz"), ids=lambda path: path.stem)
def test_guided_samplers_agree_with_the_reference(path):
    v = load(path)
    process, z = process_of(v), torch.from_numpy(v["z"])
    weights = torch.from_numpy(v["W"])

    def guide(u, t):
        return torch.tanh(u.flatten(1) @ weights.T) + t[:, None]

    network = stand_in(process.predicted, z.shape[1] // process.blocks)
    labels = torch.full((len(z),), int(v["label"]))
    gradient = class_gradient(guide, labels, batch_size=2, official_time=True)
    score = GuidedScore(NetworkScore(network, batch_size=2), gradient, scale=float(v["temp"]))
    queue, noise = replay(v["noise"])
    result = sample(process, em_settings(v), score, z, noise)
    assert next(queue, None) is None, "not all of the official noise was used"
    np.testing.assert_allclose(result, v["result"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("path", reference_files("inpaint_*.npz"), ids=lambda path: path.stem)
def test_inpainting_agrees_with_the_reference(path):
    v = load(path)
    process, z = process_of(v), torch.from_numpy(v["z"])
    images, mask = torch.from_numpy(v["x0"]), torch.from_numpy(v["mask"])
    steps = zip(v["noise"], v["known_eps"], strict=True)
    queue, noise = replay([v["init_known_eps"], *(array for pair in steps for array in pair)])
    score = NetworkScore(stand_in(process.predicted, images.shape[1]), batch_size=2)
    inpainting = Inpainting(process, images, mask)
    result = sample(process, em_settings(v), score, z, noise, inpainting)
    assert next(queue, None) is None, "not all of the official noise was used"
    np.testing.assert_allclose(result, v["result"], rtol=1e-4, atol=1e-4)
