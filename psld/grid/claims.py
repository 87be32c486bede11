"""The claims of a grid: comparisons that the paper makes, answered by our numbers."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

from psld.grid.cells import Grid
from psld.grid.entries import paper_values
from psld.grid.seeds import LEAST_TRAININGS, SeedResults, read_results
from psld.grid.tables import Comparison
from psld.metrics.comparison import Difference
from psld.metrics.estimate import CONFIDENCE

Answer = Literal["agrees", "contradicts", "cannot tell", "not run"]

ANSWERS: tuple[Answer, ...] = get_args(Answer)


@dataclass(frozen=True)
class AnsweredComparison:
    """One comparison of a claim, and our two numbers."""

    claim: str
    compared: Comparison
    smaller: SeedResults
    larger: SeedResults
    comparisons: int
    """The number of comparisons of the claim, for Bonferroni's correction."""
    paper: float | None
    """The paper's difference, if it has both numbers."""

    @cached_property
    def difference(self) -> Difference | None:
        """The side that the paper calls smaller minus the other; None if one has not been run."""
        has_both = self.smaller.results and self.larger.results
        return self.smaller.difference(self.larger) if has_both else None

    @property
    def p_value(self) -> float | None:
        """The p-value of the difference, after Bonferroni's correction."""
        return self.difference and min(1.0, self.comparisons * self.difference.p_value)

    @property
    def trainings(self) -> int:
        """The number of trainings of the side with fewer."""
        return min(len(side.by_training()) for side in (self.smaller, self.larger))

    @property
    def covers_training(self) -> bool:
        """True if the answer is not of these weights alone: a claim is of methods."""
        return self.trainings >= LEAST_TRAININGS

    @property
    def answer(self) -> Answer:
        if self.difference is None:
            return "not run"
        if self.p_value >= 1 - CONFIDENCE:
            return "cannot tell"
        return "agrees" if self.difference.value < 0 else "contradicts"


def read_claims(grid: Grid, root: Path = Path()) -> Iterator[AnsweredComparison]:
    """Yield all comparisons of a grid's claims.

    Args:
        root: the folder of the project.
    """
    papers = paper_values(grid)
    for claim, comparisons in zip(grid.file.claims, grid.file.comparisons, strict=True):
        for compared in comparisons:
            numbers = compared.smaller, compared.larger
            printed = [papers.get(number, {}).get("value") for number in numbers]
            yield AnsweredComparison(
                claim.claim,
                compared,
                *(read_results(grid, number, root) for number in numbers),
                comparisons=len(comparisons),
                paper=None if None in printed else printed[0] - printed[1],
            )
