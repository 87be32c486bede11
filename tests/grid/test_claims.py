"""The claims of a grid: the paper's comparisons, answered by differences of our numbers."""

from pathlib import Path

import pytest

from psld.grid.cells import Grid
from psld.grid.rows import Comparison, read_claims
from psld.utils.errors import UserError
from tests.grid.mine import grid_content, grid_in, write_grid
from tests.results import write_result

GRID = grid_content("""
shard_size: 100
seeds: {training: [0, 1, 2]}
models:
  cld: [process=cld]
  psld: [process=psld]
tables:
  mine-all:
    title: Mine
    headings: [sampler, model]
    columns:
      - {label: "10", budget: 10}
      - {label: "20", budget: 20}
      - {label: "NFE, 10", budget: 10, show: nfe}
      - {label: "NFE, 20", budget: 20, show: nfe}
    rows:
      - {label: [EM, CLD], sampler: em, model: cld, paper: [5.0, 4.0, 14, null]}
      - {label: [EM, PSLD], sampler: em, model: psld, paper: [4.5, 4.25, 11, null]}
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
  - claim: PSLD needs fewer evaluations
    cell: {sampler: em, budget: "{steps}", show: nfe}
    smaller: {model: psld}
    larger: {model: cld}
    over: {steps: [10, 20]}
""")


@pytest.fixture(scope="module")
def folder(once) -> Path:
    return once("claims", fill)


@pytest.fixture(scope="module")
def grid(folder) -> Grid:
    return grid_in(folder)


def fill(folder: Path) -> None:
    """CLD is worse in every training at 10 steps; at 20, one training of each was run."""
    grid = write_grid(folder, GRID)
    trainings = zip(("", "-seed1", "-seed2"), (0.0, 0.1, -0.1), strict=True)
    for seed, shift in trainings:
        write_result(folder, grid, f"cld{seed}/em-10", value=5.0 + shift, error=0.02, nfe=13)
        count = 10 + 10 * shift
        write_result(folder, grid, f"psld{seed}/em-10", value=4.0 + shift, error=0.01, nfe=count)
        write_result(folder, grid, f"psld{seed}/sscs-10", value=4.0 + 2 * shift, error=0.01)
    write_result(folder, grid, "cld/em-20", value=3.0, error=0.02, nfe=23)
    write_result(folder, grid, "psld/em-20", value=3.5, error=0.01)


def test_a_claim_is_answered_by_the_difference_and_says_what_it_covers(grid, folder):
    answered = list(read_claims(grid, folder))
    assert [(each.answer, each.trainings) for each in answered[:4]] == [
        ("agrees", 3),
        ("contradicts", 1),
        ("cannot tell", 3),  # SSCS differs from EM by less than trainings do
        ("not run", 0),
    ]
    assert answered[0].difference.value == pytest.approx(-1.0)
    papers = pytest.approx([-0.5, 0.25, None, None, -3.0, None])
    assert [each.paper for each in answered] == papers
    assert answered[2].p_value == min(1.0, 2 * answered[2].difference.p_value)
    assert answered[3].p_value == 1, "what was not run is a comparison that finds nothing"
    assert [each.label for each in answered] == ["10", "20"] * 3


def test_answers_are_those_of_corrected_p_values(grid, tmp_path):
    """Of two comparisons, both with p below 5 %, and one of them not after Holm's correction."""

    def compared(*gaps: float) -> list[Comparison]:
        for budget, gap in zip((10, 20), gaps, strict=True):
            write_result(tmp_path, grid, f"psld/em-{budget}", value=4.0, error=0.11)
            write_result(tmp_path, grid, f"cld/em-{budget}", value=4.0 + gap, error=0.01)
        return list(read_claims(grid, tmp_path))[:2]

    near, nearer = compared(0.23, 0.22)
    single = [each.difference.p_value for each in (near, nearer)]
    assert 0.025 < single[0] < single[1] < 0.05
    assert [each.p_value / single[0] for each in (near, nearer)] == pytest.approx([2, 2])
    assert [each.answer for each in (near, nearer)] == ["cannot tell", "cannot tell"]
    far, near = compared(0.35, 0.22)
    assert far.p_value / far.difference.p_value == pytest.approx(2)
    assert near.p_value == near.difference.p_value
    assert [each.answer for each in (far, near)] == ["agrees", "agrees"]


def test_what_was_not_run_counts_as_a_comparison_of_its_claim(grid, tmp_path):
    for cell, value, error in (("psld/em-20", 4.0, 0.11), ("cld/em-20", 4.35, 0.01)):
        write_result(tmp_path, grid, cell, value=value, error=error)
    first, second = list(read_claims(grid, tmp_path))[:2]
    assert (first.answer, first.p_value) == ("not run", 1)
    assert second.p_value / second.difference.p_value == pytest.approx(2)


def test_a_claim_can_allow_a_margin(folder, grid):
    """SSCS is not told from EM, but it is not worse by half, and not better by half either."""
    sscs = {"model": "psld", "sampler": "sscs", "budget": 10}
    em = sscs | {"sampler": "em"}
    claims = [
        {"claim": f"times {t}", "smaller": sscs, "larger": em, "times": t} for t in (1.5, 0.5)
    ]
    sides = {"smaller": em, "larger": em | {"model": "cld"}}
    claims.append({"claim": "the paper's", **sides, "times": 0.5})
    table = GRID["tables"]["mine-all"]
    rows = [{k: v for k, v in row.items() if k != "paper"} for row in table["rows"]]
    again = {"tables": GRID["tables"] | {"mine-again": table | {"rows": rows}}}
    content = GRID | {"claims": claims} | again
    within, half, printed = read_claims(write_grid(folder / "margin", content), folder)
    assert printed.paper == 4.5 - 0.5 * 5.0, "from the table that has it"
    assert (within.answer, half.answer) == ("agrees", "contradicts")
    assert within.difference.value == pytest.approx(4.0 - 1.5 * 4.0)
    assert (within.times, within.paper) == (1.5, None)
    drawn, again = (error for error, _ in within.difference.errors)
    assert drawn == pytest.approx(0.01 * 0.5), "the blocks have one noise"
    assert again == pytest.approx(0.1 * 0.5 / 3**0.5)


def test_counts_have_the_error_of_training_again_alone(grid, folder):
    three, one = list(read_claims(grid, folder))[4:]
    assert three.difference.errors == ((pytest.approx(1 / 3**0.5), pytest.approx(2.0)),)
    assert (three.answer, one.answer) == ("agrees", "agrees")
    assert (three.trainings, one.trainings) == (3, 1)
    assert one.difference.interval == (-3.0, -3.0, -3.0)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            {"over": {"steps": [10, 30]}},
            "no table shows the value of psld/em-30 with metric fd-classifier and 100",
        ),
        ({"over": {}}, "budget '{steps}' has an unknown placeholder; there are: none"),
        ({"larger": {"model": "cld", "samples": 50}}, "both sides need the same metric, samples"),
        ({"larger": {"model": "cld", "show": "nfe"}}, "both sides need the same metric, samples"),
        ({"smaller": {}}, "claim 'PSLD is better than <CLD>': model is missing"),
    ],
)
def test_a_claim_without_two_comparable_numbers_is_refused(tmp_path, change, complaint):
    first, *others = GRID["claims"]
    with pytest.raises(UserError, match=r"mine\.yaml: .*claim") as refused:
        write_grid(tmp_path, GRID | {"claims": [first | change, *others]})
    assert complaint in str(refused.value)
    assert "\n" not in str(refused.value)
