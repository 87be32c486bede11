"""`psld design`: a process judged before training."""

import re

import pytest
import torch

from psld.diffusion.design import Comparison, Trial
from psld.diffusion.instances import phase_space, vp_sde
from psld.diffusion.process import LinearProcess
from psld.diffusion.schedule import LinearBeta
from psld.report.design import LEVELS, level_names, modes, shares
from tests.commands import call, refused, succeeded
from tests.diffusion.processes import recipe

QUICK = ("count=64", "evaluations=[3,6]")


def design(folder, *overrides: str) -> str:
    return succeeded(call(folder, "design", *QUICK, *overrides)).stdout


def row_of(text: str, name: str) -> list[str]:
    """The numbers of a printed row."""
    [line] = re.findall(rf"^\| {re.escape(name)} +\|(.*)\|$", text, re.MULTILINE)
    return [cell.strip() for cell in line.split("|")]


def test_a_process_is_described_and_drawn(tmp_path):
    said = design(tmp_path, "process=cld", "output=figures/cld")
    assert "cld: the recipe's conditions hold" in said
    assert "modes of the drift (D + Q) S⁻¹: 1, 1 (critically damped)" in said
    assert "the network predicts 1 of 2 blocks of ε" in said
    mean, _, spread, _, level, _, _ = map(float, row_of(said, "0.1"))
    process, t = phase_space(0.0), torch.tensor([0.1], dtype=torch.float64)
    assert mean == pytest.approx(float(process.image_mean(t)[0, 0]), rel=1e-2)
    assert spread == pytest.approx(float(process.image_covariance(t)[0, 0, 0]) ** 0.5, rel=1e-2)
    assert level == pytest.approx(float(process.noise_level(t)), rel=1e-2)
    for sampler in ("em", "sscs", "gddim", "multistep"):
        few, many = map(float, row_of(said, sampler))
        assert 0 < many < few
    assert said.endswith("wrote figures/cld.png and figures/cld.svg\n")
    assert (tmp_path / "figures/cld.png").read_bytes().startswith(b"\x89PNG")
    assert "what is left of the image" in (tmp_path / "figures/cld.svg").read_text()


def test_the_matrices_may_stand_on_the_command_line(tmp_path):
    matrices = (
        "process=recipe",
        "process.D=[[0,0],[0,0.25]]",
        "process.Q=[[0,-0.5],[0.5,0]]",
        "process.S=[1,0.25]",
        "process.initial_variance=[0,0.01]",
    )
    said = design(tmp_path, *matrices, "samplers=[multistep]", "name='$x_{$'", "output=x")
    assert "<!-- $x_{$ -->" in (tmp_path / "x.svg").read_text(), "a title is no formula"
    assert "\nQ = [[0, -0.5], [0.5, 0]]\n" in said
    assert "\nF/β = −(D + Q) S⁻¹ = [[0, 2], [-0.5, -1]]\n" in said
    assert "\nG/√β = √(2D) = [[0, 0], [0, 0.7071]]\n" in said
    assert "0.5-0.866j, 0.5+0.866j (underdamped: it oscillates)" in said
    wrong = (*matrices, "process.Q=[[0,0.5],[0.5,0]]")
    refused(call(tmp_path, "design", *QUICK, *wrong), 2, "Q must be skew-symmetric")


def test_a_sampler_that_cannot_sample_the_process_is_reported(tmp_path):
    said = design(tmp_path, "process=recipe", "samplers=[em,multistep]")
    assert "multistep: process: the predicted ε does not depend on the image at t =" in said
    assert len(row_of(said, "em")) == 2
    said = design(tmp_path, "process=vp-sde", "samplers=[sscs,rk45]", "evaluations=[3]")
    assert "sscs: sampler.integrator: sscs needs a process with momentum" in said
    assert re.fullmatch(r"0\.\d{4} at \d+", row_of(said, "rk45")[0])


def test_a_search_tries_all_combinations_and_shows_the_best(tmp_path):
    tried = ("search.gamma=[0,0.25]", "search.beta_max=[4,8]", "search.beta_min=[4]")
    said = design(tmp_path, *tried, "samplers=[multistep]")
    rows = re.findall(r"^\| (gamma = .*?) +\| +([\d.]+) \| +([\d.]+) \| +([\d.]+) \|$", said, re.M)
    assert len(rows) == 4
    assert re.search(
        r"geometric mean, and by evaluations\n\n\| process +\| +mean \| +3 \| +6 \|", said
    )
    means = [float(row[1]) for row in rows]
    assert means == sorted(means)
    few, many = map(float, rows[0][2:])
    assert means[0] == pytest.approx((few * many) ** 0.5, rel=1e-2)
    assert f"psld, {rows[0][0]}: the recipe's conditions hold" in said


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("search.gama=[0,1]", ("search: unknown key gama",)),
        ("search.gamma=[-1]", ("search: gamma",)),
        ("search.gamma=0.1", ("search",)),
        ("search.gamma=[]", ("search.gamma", "at least 1")),
        ("samplers=[euler]", ("samplers: ", "euler")),
        ("evaluations=[1]", ("evaluations",)),
        ("data.means=[0]", ("weights, means and deviations need one number for each part",)),
    ],
)
def test_what_cannot_be_designed_is_refused(tmp_path, given, words):
    refused(call(tmp_path, "design", *QUICK, given), 2, *words)
    assert not list(tmp_path.iterdir())


def test_damping_is_named():
    assert modes(recipe()) == "1, 1, 1 (critically damped)"
    assert modes(vp_sde()) == "0.5 (decay)"
    slow = LinearProcess(
        D=torch.tensor([[0.0, 0.0], [0.0, 1.0]]),
        Q=torch.tensor([[0.0, -0.5], [0.5, 0.0]]),
        S=torch.tensor([1.0, 0.25]),
        beta=LinearBeta(8.0, 8.0),
        initial_variance=torch.tensor([0.0, 0.01]),
    )
    assert modes(slow) == "0.268, 3.73 (overdamped)"


def test_the_shares_of_time_add_up():
    process = phase_space(0.02)
    found = shares(process)
    assert len(found) == len(LEVELS) + 1 == len(level_names())
    assert sum(found) == pytest.approx(1, abs=1e-4)
    high = float(process.noise_level(torch.tensor([1.0], dtype=torch.float64)))
    assert high > LEVELS[-1]
    assert found[-1] > 0


def test_a_process_that_no_sampler_can_sample_is_the_worst():
    good = Trial((5,), [Comparison("em", 5, 0.5)], {})
    bad = Trial((5,), [], {"em": "reason"})
    assert good.mean_distance == 0.5
    assert bad.mean_distance > good.mean_distance
