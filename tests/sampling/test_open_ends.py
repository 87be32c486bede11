"""Sampling from given noise or states, the steps of a sampler, and states of given images."""

import pytest
import torch

import psld
from psld.data.units import from_uint8
from psld.diffusion.matrices import mix
from psld.utils.errors import UserError

EM = {"sampler": "em", "steps": 6, "seed": 3}
FEW = {"sampler": "few", "steps": 3, "seed": 3}


@pytest.fixture(scope="module")
def loaded(model):
    return psld.load(model)


def first_noise(loaded, n: int) -> torch.Tensor:
    """Return the noise of the first states of a sampler that starts from the prior."""
    _, z, _ = next(loaded.path(n, **EM))
    return mix(torch.linalg.inv(loaded.process.prior_covariance.sqrt()), z)


@pytest.mark.parametrize("choice", [EM, {"sampler": "multistep", "steps": 4, "seed": 3}])
def test_equal_seeds_give_equal_images_in_every_way(loaded, choice):
    images = loaded.sample(5, **choice, raw=True)
    steps = list(loaded.path(5, **choice))
    assert torch.equal(steps[-1].state[:, :1], images)
    noise, start = first_noise(loaded, 5), steps[0].state
    for given in ({"noise": noise}, {"state": start, "time": 1.0}):
        again = loaded.sample(**given, **choice, raw=True)
        torch.testing.assert_close(again, images, rtol=0, atol=1e-5)
        last = list(loaded.path(**given, **choice))[-1].state
        torch.testing.assert_close(last[:, :1], images, rtol=0, atol=1e-5)
    seen = []
    assert torch.equal(loaded.sample(5, **choice, raw=True, on_step=seen.append), images)
    for step, other in zip(seen, steps, strict=True):
        assert step.time == other.time
        assert torch.equal(step.state, other.state)


def test_other_noise_gives_other_images(loaded):
    images, noise = loaded.sample(2, **EM), torch.randn(2, 2, 8, 8)
    assert not torch.equal(loaded.sample(noise=noise, **EM), images)
    assert torch.equal(loaded.sample(noise=noise, **EM), loaded.sample(2, noise=noise, **EM))


def test_noise_of_a_mixture_moves_within_the_component_of_the_seed(loaded):
    few = FEW | {"steps": 0, "raw": True}
    noise = torch.zeros(4, 2, 8, 8)
    means, seeded = loaded.sample(noise=noise, **few), loaded.sample(4, **few)
    assert torch.equal(means, loaded.sample(noise=noise, **few))
    moved = loaded.sample(noise=noise + 1, **few)
    assert not torch.equal(moved, means)
    assert not torch.equal(seeded, means)
    other = loaded.sample(noise=noise, **(few | {"seed": 4}))
    assert not torch.equal(other, means), "another seed chooses other components"


def test_steps_have_the_predicted_image_of_their_evaluation(loaded):
    """Euler's step of the ODE toward time 0 ends at the prediction if the drift is exact."""
    steps = list(loaded.path(4, sampler="multistep", steps=4, seed=0))
    times = [step.time for step in steps]
    assert times[0] == 1.0
    assert times[-1] == 0.0
    assert times == sorted(times, reverse=True)
    assert steps[0].image is None
    assert torch.equal(steps[-1].image, steps[-1].state[:, :1])
    assert all(step.image.shape == (4, 1, 8, 8) for step in steps[1:])


def test_the_prediction_is_the_denoiser_at_the_state(loaded):
    process = loaded.process
    first, second, *_ = loaded.path(3, **EM)
    t = torch.full((3,), 1.0)
    with torch.no_grad():
        eps = loaded.eps()(first.state, t)
    a, factor = process.image_mean(1.0)[0], process.image_factor(1.0)[0]
    # ε = L⁻¹ (z − a x̂₀); the least-squares solution over both blocks.
    inverse = torch.linalg.inv(factor)
    g = inverse @ a
    v = torch.einsum("ij,njhw->nihw", inverse, first.state.double())
    expected = torch.einsum("i,nihw->nhw", g, v - eps.double()) / (g @ g)
    torch.testing.assert_close(second.image[:, 0].double(), expected, rtol=1e-3, atol=1e-3)


def test_a_sampler_starts_at_the_time_of_a_state_with_all_its_steps(loaded, digits):
    images = psld.load_images(digits)[:3]
    z = loaded.noised(images, 0.4)
    for sampler in ("em", "sscs", "multistep", "gddim", "conjugate"):
        times = [t for t, *_ in loaded.path(state=z, time=0.4, sampler=sampler, steps=5)]
        assert times[0] == 0.4
        assert len(times) == 6 if sampler in ("em", "sscs", "multistep") else len(times) >= 5
    near = loaded.sample(state=loaded.noised(images, 2e-3), time=2e-3, sampler="rk45", raw=True)
    torch.testing.assert_close(near, from_uint8(images), rtol=0, atol=0.05)


def test_a_sampler_with_noise_levels_starts_from_states(loaded):
    state = loaded.noised(torch.zeros(2, 1, 8, 8), 0.5)
    high, low = (float(loaded.process.noise_level(t)) for t in (0.5, 0.1))
    given = {"state": state, "sampler": "multistep", "steps": 2, "denoise": False}
    images = loaded.sample(**given, time=0.5, levels=[high, (high * low) ** 0.5, low], raw=True)
    assert images.isfinite().all()
    with pytest.raises(UserError, match=r"levels: .* the noise levels of the process are"):
        loaded.sample(**given, time=0.5, levels=[2 * high, high, low])


def test_noised_states_follow_the_kernel(loaded):
    images = torch.zeros(400, 1, 8, 8)
    z, process = loaded.noised(images, 0.3, seed=1), loaded.process
    assert torch.equal(z, loaded.noised(images, 0.3, seed=1))
    flat = z.double().transpose(0, 1).reshape(2, -1)
    torch.testing.assert_close(torch.cov(flat), process.image_covariance(0.3)[0], rtol=0.05, atol=0)
    moved = loaded.noised(images + 0.5, 0.3, seed=1) - z
    expected = 0.5 * process.image_mean(0.3)[0].float()
    torch.testing.assert_close(moved[7, :, 2, 2], expected, rtol=1e-3, atol=1e-6)


def test_encoded_images_are_decoded(loaded, digits):
    images = psld.load_images(digits)[:4]
    z = loaded.encode(images, tolerance=1e-6)
    assert z.shape == (4, 2, 8, 8)
    assert torch.equal(loaded.encode(from_uint8(images), tolerance=1e-6), z)
    decode = {"sampler": "rk45", "tolerance": 1e-6, "denoise": False, "raw": True}
    again = loaded.sample(state=z, time=1.0, **decode)
    # The ODE amplifies the float32 rounding of z, because pixels without variance expand most.
    torch.testing.assert_close(again, from_uint8(images), rtol=0, atol=0.05)
    assert (again - from_uint8(images)).abs().mean() < 5e-3


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "n: the number of images is missing"),
        ({"state": torch.zeros(2, 2, 8, 8)}, "state: give both state and time"),
        ({"n": 2, "time": 0.5}, "state: give both state and time"),
        (
            {"state": torch.zeros(2, 1, 8, 8), "time": 0.5},
            r"state: got .* \(2, 1, 8, 8\); expected",
        ),
        (
            {"noise": torch.zeros(2, 2, 8, 8), "n": 3},
            r"noise: got .* expected floats \(3, 2, 8, 8\)",
        ),
        ({"noise": torch.zeros(2, 2, 8, 8, dtype=torch.int64)}, "noise: got torch.int64"),
        (
            {"state": torch.zeros(2, 2, 8, 8), "time": 0.5, "sampler": "few"},
            "state: sampler=few chooses where it starts",
        ),
        ({"state": torch.zeros(2, 2, 8, 8), "time": 1e-4}, "time: 0.0001 is not above the time"),
        ({"state": torch.zeros(2, 2, 8, 8), "time": 1.5}, "time: Input should be less than or"),
    ],
)
def test_wrong_beginnings_are_refused(loaded, given, said):
    with pytest.raises(UserError, match=said):
        loaded.sample(**given)


def test_images_of_another_shape_are_refused(loaded):
    with pytest.raises(UserError, match=r"noised\(\): images: got \(2, 3, 8, 8\); expected"):
        loaded.noised(torch.zeros(2, 3, 8, 8), 0.5)
