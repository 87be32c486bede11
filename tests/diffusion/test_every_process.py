"""One denoiser as the network of every process: its ε, score, samplers and refusals."""

import pytest
import torch

from psld.diffusion.denoiser import SeesImages, check_levels, every_block
from psld.diffusion.loop import sample
from psld.diffusion.matrices import mix
from psld.diffusion.roots import WhiteningRoot
from psld.diffusion.samplers import MultistepSettings
from psld.diffusion.score import NetworkScore, at_time
from psld.diffusion.time_grid import time_of_noise_level
from psld.utils.errors import UserError
from tests.diffusion.processes import EVERY_KIND, normal, phase_space, recipe, times, vp_sde
from tests.diffusion.sampling import MIXTURE, end, multistep


def denoise(y, sigma):
    """The perfect denoiser of the mixture, with the interface of a network."""
    return MIXTURE.denoise(y, sigma.to(y).view(-1, 1, 1, 1))


def network(process) -> SeesImages:
    return SeesImages(process, denoise, gives_image=True)


@pytest.mark.parametrize("name", EVERY_KIND)
def test_the_score_equals_the_score_of_a_perfect_network_of_the_process(name):
    process, whole = EVERY_KIND[name], every_block(EVERY_KIND[name])
    z = process.prior(normal(64, process.blocks, 1, 1))
    for t in (0.02, 0.3, 1.0):
        own, every = (
            NetworkScore(net, 64)(z, t).mix(each.score_matrix(times(t))[0])
            for net, each in ((MIXTURE.network(process), process), (network(process), whole))
        )
        # Scores of blocks without noise are 0 in a training of the process: no step uses them.
        noisy = process.diffusion_squared(0.5)[0].diagonal() > 0
        torch.testing.assert_close(every[:, noisy], own[:, noisy], rtol=1e-4, atol=1e-4)


def test_a_process_whose_own_network_cannot_predict_the_image_is_sampled():
    process = recipe("recipe")
    whole = every_block(process)
    with pytest.raises(UserError, match="does not depend on the image"):
        end(process, multistep(6))
    images = end(whole, multistep(8), network(process), count=512)[:, 0]
    assert abs(float(images.mean()) - 0.06) < 0.05


def test_with_equal_levels_processes_of_every_order_make_the_same_images():
    few = {"integrator": "multistep", "striding": "edm", "steps": 4, "eta": 0.0}
    few |= {"start": "gaussian", "levels": (2, 0.7, 0.2, 0.05), "interpolation": "lambda"}
    y, images = 2 * normal(64, 1, 1, 1), []
    orders = vp_sde(), phase_space(0.25), recipe("fourth-order")
    for process in map(every_block, orders):
        t = time_of_noise_level(process, torch.tensor([2.0]), 1e-3)
        straight = torch.cat([y / 2, normal(64, process.blocks - 1, 1, 1, seed=1)], dim=1)
        z = mix(WhiteningRoot(process, "straight", 1e-3)(t)[0], straight)
        score = NetworkScore(network(process), 64)
        images.append(sample(process, MultistepSettings(**few), score, z, None)[:, :1])
    for other in images[1:]:
        torch.testing.assert_close(other, images[0], rtol=0, atol=1e-6)


def test_times_are_shared_or_per_state_and_of_any_dtype():
    """A table for float32 must not be used for float64."""
    eps, z = network(phase_space(0.02)), normal(5, 2, 1, 1)
    at = at_time(eps, 0.37)
    assert at(z).equal(at(z)), "from the table"
    single, double = at(z.float()), at(z)
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    exact = MIXTURE.network(every_block(phase_space(0.02)))(z, times(0.37).expand(5))
    torch.testing.assert_close(double, exact, rtol=1e-6, atol=1e-7)
    for t in (torch.tensor([0.37]), torch.full((5,), 0.37)):
        torch.testing.assert_close(eps(z.float(), t), single, rtol=1e-4, atol=1e-5)


def test_a_denoiser_receives_the_label_and_level_of_each_image():
    process, seen = phase_space(0.02), []
    eps = SeesImages(process, lambda *given: seen.extend(given) or given[0], gives_image=True)
    z, t, label = normal(2, 2, 4, 4), torch.tensor([0.9, 0.2]), torch.tensor([3, 5])
    eps(z, t, label)
    at_time(eps, 0.2)(z, label)
    (_, levels, first), (_, one, second) = seen[:3], seen[3:]
    torch.testing.assert_close(levels.double(), process.noise_level(t), rtol=1e-5, atol=0)
    torch.testing.assert_close(one, levels[1].expand(2), rtol=1e-5, atol=0)
    assert first is second is label


def test_a_denoiser_of_other_images_is_refused():
    z = normal(3, 4, 8, 8)
    for wrong in (z[:, :1], z[:1, :2]):
        eps = SeesImages(phase_space(0.02), lambda y, sigma, w=wrong: w, gives_image=True)
        with pytest.raises(UserError, match=r"denoiser: predicts .* for images of \(3, 2, 8, 8\)"):
            at_time(eps, 0.5)(z)


def test_a_guide_receives_labels_scaled_images_and_levels():
    process, seen = vp_sde(), {}

    def guide(y, sigma, label):
        seen.update(y=y, sigma=sigma, label=label)
        return y.new_zeros(len(y), 10)

    z = normal(3, 1, 4, 4)
    logits = SeesImages(process, guide, gives_image=False).at(0.5)(z, "classes")
    assert logits.shape == (3, 10)
    assert seen["label"] == "classes"
    sigma = process.noise_level(times(0.5)).expand(3)
    torch.testing.assert_close(seen["sigma"].double(), sigma**0.25, rtol=1e-6, atol=0)
    y = z / process.image_mean(times(0.5))[0, 0]
    expected = y / (1 + sigma[:, None, None, None] ** 2).sqrt()
    torch.testing.assert_close(seen["y"].double(), expected.double(), rtol=1e-6, atol=0)


def test_levels_that_the_network_has_not_seen_are_refused_in_one_line():
    few = {"integrator": "multistep", "striding": "edm", "steps": 4}
    levels = MultistepSettings(**few).noise_levels(vp_sde())
    check_levels(levels, 1e-3, 1000)
    for low, high in ((2e-2, 80), (1e-3, 80), (2e-2, 900)):
        said = rf"levels are 0\.0\d+ to 1\d\d, but the denoiser accepts {low} to {high};"
        with pytest.raises(UserError, match=said):
            check_levels(levels, low, high)
    check_levels((0.01, 90), 0.01 * (1 + 1e-7), 90 * (1 - 1e-7))
    with pytest.raises(UserError, match=r"accepts 0\.0101 to 100"):
        check_levels((0.01, 90), 0.0101, 100)
    below = {"start": "gaussian", "start_level": 3.0, "final_time": 0.02}
    check_levels(MultistepSettings(**few | below).noise_levels(vp_sde()), 2e-2, 3)
    given = {"start": "gaussian", "levels": (80, 3, 0.5, 0.02)}
    check_levels(MultistepSettings(**few | given).noise_levels(vp_sde()), 2e-2, 80)
