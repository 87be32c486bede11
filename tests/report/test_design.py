"""`psld design`: a process judged before training."""

import pytest
import torch

from psld.diffusion.process import LinearBeta, LinearProcess
from psld.report.design import LEVELS, level_names, modes, shares
from tests.commands import call, refused, succeeded
from tests.diffusion.processes import phase_space, recipe, vp_sde


def design(folder, *overrides: str) -> str:
    return succeeded(call(folder, "design", *overrides)).stdout


def test_a_process_is_described_and_drawn(tmp_path):
    printed = design(tmp_path, "process=cld", "name='$x_{$'", "output=figures/cld")
    assert "$x_{$: the recipe's conditions hold" in printed
    assert "modes of the drift (D + Q) S⁻¹: 1, 1 (critically damped)" in printed
    assert "the network predicts 1 of 2 blocks of ε" in printed
    assert printed.endswith("wrote figures/cld.png and figures/cld.svg\n")
    assert (tmp_path / "figures/cld.png").read_bytes().startswith(b"\x89PNG")
    drawn = (tmp_path / "figures/cld.svg").read_text()
    assert "what is left of the image" in drawn
    assert "<!-- $x_{$ -->" in drawn, "a title is no formula"


def test_the_matrices_may_stand_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.setattr("psld.report.design.draw_design", lambda *_: None)
    monkeypatch.setattr("psld.report.style.save", lambda *_: None)
    matrices = (
        "process=recipe",
        "process.D=[[0,0],[0,0.25]]",
        "process.Q=[[0,-0.5],[0.5,0]]",
        "process.S=[1,0.25]",
        "process.initial_variance=[0,0.01]",
    )
    printed = design(tmp_path, *matrices)
    assert "\nQ = [[0, -0.5], [0.5, 0]]\n" in printed
    assert "\nF/β = −(D + Q) S⁻¹ = [[0, 2], [-0.5, -1]]\n" in printed
    assert "\nG/√β = √(2D) = [[0, 0], [0, 0.7071]]\n" in printed
    assert "0.5-0.866j, 0.5+0.866j (underdamped: it oscillates)" in printed
    wrong = (*matrices, "process.Q=[[0,0.5],[0.5,0]]")
    refused(call(tmp_path, "design", *wrong), 2, "Q must be skew-symmetric")


def test_damping_is_named():
    assert modes(recipe()) == "1, 1, 1 (critically damped)"
    assert modes(vp_sde()) == "0.5 (decay)"
    slow = LinearProcess(
        D=torch.tensor([[0.0, 0.0], [0.0, 1.0]]),
        Q=torch.tensor([[0.0, -0.5], [0.5, 0.0]]),
        S=torch.tensor([1.0, 0.25]),
        beta=LinearBeta(10.0, 10.0),
        initial_variance=torch.tensor([0.0, 0.01]),
    )
    assert modes(slow) == "0.268, 3.73 (overdamped)"


def test_the_shares_of_time_add_up():
    process = phase_space(0.02)
    parts = shares(process)
    assert len(parts) == len(LEVELS) + 1 == len(level_names())
    assert sum(parts) == pytest.approx(1, abs=1e-4)
    high = float(process.noise_level(torch.tensor([1.0], dtype=torch.float64)))
    assert high > LEVELS[-1]
    assert parts[-1] > 0
