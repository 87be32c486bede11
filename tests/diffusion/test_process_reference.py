"""The recipe, compared with thirty closed-form coefficients of the official code."""

import numpy as np
import pytest
import torch

from psld.diffusion.matrices import mix
from psld.diffusion.process import LinearProcess
from tests.diffusion.processes import phase_space, vp_sde
from tests.reference import load, mass_inverse, reference_files


def agree(actual: torch.Tensor, expected: np.ndarray, t: np.ndarray) -> None:
    """Return the tolerance: rtol is 1e-6 for t ≥ 1e-3, and 1e-4 for smaller t.

    The official score is rounded to float32. So if the terms of an entry of a reverse drift nearly
    cancel, the entry is known only to 1e-7 of the largest entry at this time.
    """
    expected = torch.as_tensor(expected, dtype=torch.float64)
    for time, a, e in zip(t, actual, expected, strict=True):
        rtol = 1e-6 if time >= 1e-3 else 1e-4
        torch.testing.assert_close(a, e, rtol=rtol, atol=1e-7 * float(e.abs().max()))


def entries(matrices: torch.Tensor, *places: tuple[int, int]) -> torch.Tensor:
    return torch.stack([matrices[:, i, j] for i, j in places], dim=1)


def reverse_drift(process: LinearProcess, u, t, eps, probability_flow: bool) -> torch.Tensor:
    score = mix(process.score_matrix(t), eps)
    weight = 0.5 if probability_flow else 1.0
    return -mix(process.drift(t), u) + weight * mix(process.diffusion_squared(t), score)


def stand_in(u: torch.Tensor, t: torch.Tensor, channels: int) -> torch.Tensor:
    u, t = u.float(), t.float()
    return (0.5 * u[:, :channels] + 0.1 * t[:, None, None, None]).double()


@pytest.mark.parametrize("path", reference_files("sde_*.npz"), ids=lambda path: path.stem)
def test_phase_space_processes_agree_with_the_reference(path):
    v = load(path)
    times, t = v["t"], torch.from_numpy(v["t"])
    tensors = {
        name: torch.from_numpy(v[name]) for name in ("x0", "m0", "eps", "eps_for_score", "u")
    }
    for matching in ("hsm", "dsm"):
        process = phase_space(
            float(v["gamma"]),
            mass_inverse=mass_inverse(v),
            beta_min=float(v["beta_min"]),
            beta_max=float(v["beta_max"]),
            kappa=float(v["kappa"]),
            matching=matching,
            factor=str(v["decomp"]),
        )
        assert process.S[1, 1] == pytest.approx(1 / float(v["m_inv"]))
        assert process.initial_covariance[1, 1] == pytest.approx(float(v["mm_0"]))
        agree(process.beta.integral(t), v["b_t"], times)
        agree(process.beta(t), v["beta_t"], times)
        covariance = process.covariance(t)
        agree(entries(covariance, (0, 0), (0, 1), (1, 1)), v[f"cov_{matching}"], times)
        four = ((0, 0), (0, 1), (1, 0), (1, 1))
        factor = process.covariance_factor(t)
        agree(entries(factor, *four), v[f"chol_{matching}"], times)
        agree(entries(torch.linalg.inv(factor).mT, *four), v[f"inv_t_{matching}"], times)
        momentum_noise = tensors["m0"] / process.initial_covariance[1, 1].sqrt()
        agree(process.mean(tensors["x0"], t, momentum_noise), v[f"mean_{matching}"], times)
        z = process.perturb(tensors["x0"], t, tensors["eps"], momentum_noise)
        agree(z, v[f"z_{matching}"], times)
        if matching == "hsm":
            check_score_and_reverse(process, v, t, tensors)


def check_score_and_reverse(process, v, t, tensors) -> None:
    times, u = v["t"], tensors["u"]
    channels = v["eps_for_score"].shape[1]
    assert process.predicted_blocks == channels
    agree(mix(process.score_matrix(t), tensors["eps_for_score"]), v["score"], times)
    agree(mix(process.drift(t), u), v["drift"], times)
    diffusion = mix(process.diffusion(t), torch.ones_like(u))
    agree(diffusion, v["diffusion"], times)
    # The vectors were computed at reverse time 1 − t, so they include the rounding of 1 − (1 − t).
    back = 1 - (1 - t)
    eps = stand_in(u, back, channels)
    agree(reverse_drift(process, u, back, eps, False), v["rev_drift_pf0"], times)
    agree(reverse_drift(process, u, back, eps, True), v["rev_drift_pf1"], times)
    agree(diffusion, v["rev_diff_pf0"], times)
    assert not v["rev_diff_pf1"].any()


@pytest.mark.parametrize("path", reference_files("vpsde_*.npz"), ids=lambda path: path.stem)
def test_vp_sde_agrees_with_the_reference(path):
    v = load(path)
    times, t = v["t"], torch.from_numpy(v["t"])
    x0, eps = torch.from_numpy(v["x0"]), torch.from_numpy(v["eps"])
    process = vp_sde(beta_min=float(v["beta_min"]), beta_max=float(v["beta_max"]))
    u = torch.from_numpy(v["xt"])
    agree(process.mean(x0, t), v["mean"], times)
    agree(process.covariance_factor(t).reshape(-1, 1, 1, 1), v["std"], times)
    agree(process.perturb(x0, t, eps), v["xt"], times)
    agree(mix(process.score_matrix(t), eps), v["score"], times)
    agree(mix(process.drift(t), u), v["drift"], times)
    agree(process.diffusion(t).reshape(-1, 1, 1, 1), v["diffusion"], times)
    back = 1 - (1 - t)
    out = stand_in(u, back, 1)
    agree(reverse_drift(process, u, back, out, False), v["rev_drift_pf0"], times)
    agree(reverse_drift(process, u, back, out, True), v["rev_drift_pf1"], times)
