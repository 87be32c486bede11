"""The recipe's consequences: moment equations, limits and conditions."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from psld.diffusion.loss import NoisyStates
from psld.diffusion.matrices import mix
from psld.diffusion.process import LinearBeta, LinearProcess
from psld.diffusion.settings import RecipeSettings
from psld.utils.errors import UserError
from tests.diffusion.processes import NOISY_POSITION, phase_space, recipe, times, vp_sde

PROCESSES = {
    "vp-sde": vp_sde(),
    "cld": phase_space(0.0),
    "psld-dsm-upper": phase_space(
        0.02, matching="dsm", factor="upper", beta_min=0.1, beta_max=14.0
    ),
    "third-dsm": recipe(matching="dsm"),
}


@pytest.fixture(params=PROCESSES, name="process")
def _process(request) -> LinearProcess:
    return PROCESSES[request.param]


def test_kernel_solves_the_moment_equations(process):
    """d mean/dt = A mean and dΣ/dt = A Σ + Σ Aᵀ + G Gᵀ, integrated numerically."""
    k = process.blocks
    start = process.initial_covariance if process.matching == "hsm" else torch.zeros(k, k)

    def slope(t: float, flat: np.ndarray) -> np.ndarray:
        drift = process.drift(times(t))[0].numpy()
        phi, sigma = flat.reshape(2, k, k)
        noise = process.diffusion_squared(times(t))[0].numpy()
        return np.stack([drift @ phi, drift @ sigma + sigma @ drift.T + noise]).ravel()

    initial = np.stack([np.eye(k), start.numpy()]).ravel()
    for end in (0.05, 0.6, 1.0):
        solution = solve_ivp(slope, (0, end), initial, rtol=1e-10, atol=1e-12, method="DOP853")
        phi, sigma = solution.y[:, -1].reshape(2, k, k)
        t = times(end)
        np.testing.assert_allclose(process.transition(t)[0], phi, atol=1e-8)
        regular = sigma + process.numerical_eps * np.eye(k)
        np.testing.assert_allclose(process.covariance(t)[0], regular, atol=1e-8)


def test_the_factor_and_the_score_matrix_follow_from_the_covariance(process):
    t = times(1e-3, 0.1, 0.5, 1.0)
    factor, covariance = process.covariance_factor(t), process.covariance(t)
    torch.testing.assert_close(factor @ factor.mT, covariance)
    # If all of the noise is known, score = −Σ⁻¹ (z − mean) in every predicted block.
    noise = torch.randn(4, process.blocks, 1, dtype=torch.float64)
    score = process.score_matrix(t) @ noise[:, process.predicted]
    exact = -torch.linalg.solve(covariance, factor @ noise)
    torch.testing.assert_close(score[:, process.predicted], exact[:, process.predicted])


def test_only_needed_blocks_are_predicted():
    assert phase_space(0.0).predicted == slice(1, 2)
    assert phase_space(0.0, factor="upper").predicted == slice(0, 2)
    assert phase_space(0.01).predicted == slice(0, 2)
    assert recipe("recipe", **NOISY_POSITION, factor="upper").predicted == slice(0, 1)
    assert recipe().predicted == slice(2, 3)


def test_perturbed_images_have_the_kernel_s_moments(process):
    """The response to unit noise, which includes the drawn z₀."""
    t, units = times(0.3), 2 * process.blocks - 1
    x0, noise = torch.full((units + 1, 1, 1, 1), 0.7).double(), torch.eye(units + 1, units)
    eps, auxiliary = noise[..., None, None].double().split([process.blocks, process.blocks - 1], 1)
    z = process.perturb(x0, t.expand(len(x0)), eps, auxiliary).flatten(1)
    torch.testing.assert_close(z[-1], process.transition(t)[0][:, 0] * 0.7)
    response = z[:-1] - z[-1]
    torch.testing.assert_close(response.T @ response, process.image_covariance(t)[0])


@pytest.mark.parametrize("columns", [1, 3])
def test_mix_combines_blocks_without_rounding_a_state(columns):
    """Under autocast, a matrix product would have only three digits."""
    matrices, z = torch.randn(5, 2, columns), torch.randn(5, columns * 3, 4, 4)
    exact = torch.einsum("nij,njp->nip", matrices.double(), z.double().view(5, columns, -1))
    for matrix in (matrices, matrices[0]):
        with torch.autocast("cpu", torch.bfloat16):
            mixed = mix(matrix, z)
        assert mixed.dtype == torch.float32
        torch.testing.assert_close(mixed, mix(matrix, z), rtol=0, atol=0)
    torch.testing.assert_close(
        mix(matrices, z), exact.view(5, 6, 4, 4).float(), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"D": [[-1e-3, 0], [0, 1]]}, "positive semi-definite"),
        ({"D": [[1.0, 1], [0, 1]]}, "symmetric"),
        ({"Q": [[0.0, 1], [1, 0]]}, "skew-symmetric"),
        ({"D": [[0.0, 0], [0, 0]]}, r"does not converge to N\(0, S\)"),
        ({"initial_variance": [0.1, 0.1]}, "0 for the image"),
        ({"S": [1.0, 0.25, 1.0]}, r"must be k×k .* got the shapes D \(2, 2\), .*S \(3,\)"),
        ({"Q": [[0.0, -1], [1]]}, "must be numbers"),
        ({"S": [1.0, float("nan")]}, "must be finite"),
        ({"S": [1.0, 1e-300]}, "above 1e\\+09"),
        ({"beta": LinearBeta(8.0, float("nan"))}, "must not be negative"),
        ({"beta": LinearBeta(0.1, 0.1)}, r"noise, 6\.5 of the image remains at its final time"),
        (
            {"beta": LinearBeta(400, 400)},
            "final time, too little for float32, which needs 1e-09; lower β",
        ),
        ({"S": [1.0, 0.0]}, "must be positive"),
        ({"S": [1.0, -1e300]}, "at most 1e\\+09"),
        ({"initial_variance": [0.0, -0.1]}, "not negative for other blocks"),
        ({"beta": LinearBeta(8.0, -0.1)}, "must not be negative"),
    ],
)
def test_conditions_of_the_recipe_are_checked(change, complaint):
    parts = {
        "D": [[0.1, 0], [0, 1]],
        "Q": [[0.0, -1], [1, 0]],
        "S": [1.0, 0.25],
        "initial_variance": [0.0, 0.01],
        "beta": LinearBeta(8, 8),
    } | change
    with pytest.raises(UserError, match=complaint):
        LinearProcess(**parts)


def test_at_most_a_tenth_of_the_image_remains_at_the_final_time():
    """exp(−β/2) of the image remains; samplers start from N(0, S) without this remainder."""
    assert float(vp_sde(beta_min=4.7, beta_max=4.7).image_mean(1.0)) == pytest.approx(
        0.0954, abs=1e-4
    )
    with pytest.raises(UserError, match=r"0\.2 of the image remains at its final time"):
        vp_sde(beta_min=3.22, beta_max=3.22)


def test_a_singular_covariance_raises_a_user_error():
    with pytest.raises(UserError, match=r"numerically singular .*; raise process\.numerical_eps"):
        recipe("fourth-order", numerical_eps=0.0).covariance_factor(1e-5)


def test_the_prior_has_the_stationary_covariance(process):
    unit = torch.eye(process.blocks, dtype=torch.float64)[..., None, None]
    root = process.prior(unit)[..., 0, 0]
    torch.testing.assert_close(root.T @ root, process.S)


@pytest.mark.parametrize("D", [[[2.0, 0.3], [0.3, 0.1]], [[2.0, 0.0], [0.0, 0.0]]])
def test_the_diffusion_is_the_symmetric_root(D):
    Q, S = [[0.0, -0.5], [0.5, 0.0]], [1.0, 0.25]
    process = LinearProcess(D, Q, S, LinearBeta(2.0, 20.0), initial_variance=[0.0, 0.01])
    t = times(0.1, 0.7)
    root = process.diffusion(t)
    torch.testing.assert_close(root, root.mT)
    torch.testing.assert_close(root @ root, process.diffusion_squared(t))


def test_one_block_has_no_auxiliary_noise_under_any_matching():
    alone = {"kind": "recipe", "D": ((1,),), "Q": ((0,),), "S": (1,), "initial_variance": (0,)}
    hsm, dsm = (RecipeSettings(**alone, matching=matching).build() for matching in ("hsm", "dsm"))
    x0, t, eps = torch.ones(2, 1, 3, 3), times(0.1, 0.9), torch.randn(2, 1, 3, 3)
    torch.testing.assert_close(dsm.perturb(x0, t, eps), hsm.perturb(x0, t, eps))
    assert NoisyStates(dsm).auxiliary == 0


@pytest.mark.parametrize("shape", [(1, 2, 4, 4), (3, 1, 4, 4)])
def test_a_prediction_of_another_shape_is_refused(shape):
    """Without the check, torch would broadcast some of these shapes."""
    process, z = phase_space(0.02), torch.zeros(3, 2, 4, 4)
    with pytest.raises(UserError, match=r"the process needs 2 channels: ε in 2 of 2 blocks"):
        process.checked(torch.zeros(shape), z)
    assert process.checked(torch.zeros(z.shape, dtype=torch.bfloat16), z).dtype == torch.float32


@pytest.mark.parametrize("time", [0.5, torch.tensor(0.5), torch.tensor([0.5])])
def test_times_are_numbers_or_tensors_of_any_type(time):
    process = phase_space(0.02)
    for function in (process.transition, process.score_matrix, process.noise_level, process.drift):
        assert torch.equal(function(time), function(times(0.5)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"S": [1.0, 0.25]}, "D must be 2×2"),
        ({"D": [[0, 0, 0], [0, 0], [0, 0, 1]]}, "D must be 3×3"),
        ({"initial_variance": [0.0, 0.1]}, "initial_variance must have 3 entries"),
    ],
)
def test_matrices_of_the_wrong_shape_are_refused(change, said):
    with pytest.raises(UserError, match=said):
        recipe(**change)


def test_the_repr_of_a_process_is_one_line_with_its_settings():
    printed = str(phase_space(0.02))
    assert "D = [[0.01, 0.0], [0.0, 0.5025]]" in printed
    assert "S = [1.0, 0.25], LinearBeta(beta_min=8.0, beta_max=8.0), hsm, lower factor" in printed
    assert printed.count("\n") == 0
