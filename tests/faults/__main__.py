"""Run the fault matrix and print it as Markdown: `python -m tests.faults`."""

import sys
from collections import defaultdict
from pathlib import Path

import pytest

from tests.faults.matrix import FAULTS, field_of
from tests.faults.stages import STAGES


class Outcomes:
    """A pytest plugin that keeps the outcome of every field."""

    def __init__(self) -> None:
        self.passed: dict[tuple[str, str], list[bool]] = defaultdict(list)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item, call):
        report = (yield).get_result()
        if (field := field_of(item)) and (report.when == "call" or report.failed):
            self.passed[field].append(report.passed)


def as_markdown(outcomes: Outcomes) -> str:
    """Return the table, stages × faults."""

    def mark(field: tuple[str, str]) -> str:
        passed = outcomes.passed[field]
        return "✓" if passed and all(passed) else "✗"

    return "\n".join(
        [
            f"| stage | {' | '.join(FAULTS)} |",
            f"|---|{'---|' * len(FAULTS)}",
            *(f"| {s.name} | {' | '.join(mark((f, s.name)) for f in FAULTS)} |" for s in STAGES),
        ]
    )


def main() -> None:
    """Print the matrix. Exit with 1 if a field fails."""
    outcomes = Outcomes()
    ended = pytest.main([str(Path(__file__).parent), *sys.argv[1:]], plugins=[outcomes])
    print(as_markdown(outcomes))
    sys.exit(ended)


if __name__ == "__main__":
    main()
