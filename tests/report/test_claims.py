"""The claims of a grid: the paper's comparisons, answered by differences of our numbers."""

import html

import pytest

from psld.grid.cells import Grid
from psld.grid.entries import read_claims
from psld.report.page import results_page
from psld.utils.errors import UserError
from tests.commands import call, succeeded
from tests.results import grid_content, write_grid, write_result

GRID = grid_content("""
shard_size: 100
seeds: {training: [0, 1, 2]}
models:
  cld: [process=cld]
  psld: [process=psld]
samplers:
  em: {overrides: [sampler=em], budget: sampler.steps}
  sscs: {overrides: [sampler=sscs], budget: sampler.steps}
tables:
  mine-all:
    title: Mine
    headings: [sampler, model]
    columns: [{label: "10", budget: 10}, {label: "20", budget: 20}]
    rows:
      - {label: [EM, CLD], sampler: em, model: cld, paper: [5.0, 4.0]}
      - {label: [EM, PSLD], sampler: em, model: psld, paper: [4.5, 4.25]}
      - {label: [SSCS, PSLD], sampler: sscs, model: psld}
claims:
  - claim: PSLD is better than <CLD>
    cell: {sampler: em, budget: "{steps}"}
    smaller: {model: psld}
    larger: {model: cld}
    over: {steps: [10, 20]}
  - claim: SSCS is better
    cell: {model: psld, budget: "{steps}"}
    smaller: {sampler: sscs}
    larger: {sampler: em}
    over: {steps: [10, 20]}
""")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("claims")


@pytest.fixture(scope="module")
def grid(folder) -> Grid:
    """CLD is worse in every training at 10 steps; at 20, one training of each was run."""
    grid = write_grid(folder, GRID)
    trainings = zip(("", "-seed1", "-seed2"), (0.0, 0.1, -0.1), strict=True)
    for seed, shift in trainings:
        write_result(folder, grid, f"cld{seed}/em-10", value=5.0 + shift, error=0.02)
        write_result(folder, grid, f"psld{seed}/em-10", value=4.0 + shift, error=0.01)
        write_result(folder, grid, f"psld{seed}/sscs-10", value=4.0 + 2 * shift, error=0.01)
    write_result(folder, grid, "cld/em-20", value=3.0, error=0.02)
    write_result(folder, grid, "psld/em-20", value=3.5, error=0.01)
    return grid


def test_a_claim_is_answered_by_the_difference_and_says_what_it_covers(grid, folder):
    answered = list(read_claims(grid, folder))
    assert [(each.answer, each.covers_training) for each in answered] == [
        ("agrees", True),  # three trainings
        ("contradicts", False),
        ("cannot tell", True),  # SSCS differs from EM by less than trainings do
        ("not run", False),
    ]
    assert [each.trainings for each in answered] == [3, 1, 3, 0]
    assert answered[0].difference.value == pytest.approx(-1.0)
    assert [each.paper for each in answered] == pytest.approx([-0.5, 0.25, None, None])
    first = answered[0]
    assert first.p_value == pytest.approx(2 * first.difference.p_value), "Bonferroni's correction"


def test_claims_are_printed_and_stand_on_the_page(grid, folder, monkeypatch):
    monkeypatch.chdir(folder)
    texts = succeeded(call(folder, "tabulate", "grid_name=mine")).stdout, results_page(grid)
    for text in texts:
        plain = html.unescape(text).replace("\\<", "<")
        assert "PSLD is better than <CLD>" in plain
        assert "1 agrees, 1 contradicts, 1 cannot tell, 1 not run" in plain
        assert "contradicts for these weights" in plain
    lines = ([c.strip() for c in line.strip("|").split("|")] for line in texts[0].splitlines())
    [cells] = [cells for cells in lines if cells[-1] == "agrees"]
    assert cells[2].startswith("-1.00 ± ")
    assert [cells[1], cells[3], *cells[5:7]] == ["10", "-0.50", "100", "3"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            {"over": {"steps": [10, 30]}},
            "psld/em-30 by fd-classifier of 100 samples is in no table",
        ),
        ({"over": {}}, "budget '{steps}' has a placeholder that is not among the fields: there"),
        ({"larger": {"model": "cld", "samples": 50}}, "compare one metric of equal numbers"),
        ({"larger": {"model": "cld", "show": "nfe"}}, "compare one metric of equal numbers"),
        ({"smaller": {}}, "claim 'PSLD is better than <CLD>': no model"),
    ],
)
def test_a_claim_without_two_comparable_numbers_is_refused(tmp_path, change, complaint):
    first, other = GRID["claims"]
    with pytest.raises(UserError, match=r"mine\.yaml: .*claim") as refused:
        write_grid(tmp_path, GRID | {"claims": [first | change, other]})
    assert complaint in str(refused.value)
    assert "\n" not in str(refused.value)
