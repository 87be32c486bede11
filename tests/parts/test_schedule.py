"""Schedules: formulas, the rate of each step, and factors that are refused before a training."""

import math

import pytest

from psld.parts import Schedule
from psld.training.loop import learning_rate
from tests.commands import TINY, call, refused
from tests.parts.conftest import kinds
from tests.parts.contract import check_settings
from tests.training.small import recipe


@pytest.mark.parametrize("kind", kinds("schedule", "Halves"))
def test_a_schedule_scales_the_rate_after_the_warm_up(outside, kind):
    part = check_settings(Schedule, kind)
    settings = recipe(schedule=kind, learning_rate=0.5, warmup_steps=4, steps=100)
    factors = [part.factor(step, 100) for step in range(100)]
    assert all(0 <= factor <= 1 for factor in factors)
    expected = [0.5 * min(step / 4, 1) * factor for step, factor in enumerate(factors)]
    assert [learning_rate(settings, step) for step in range(100)] == pytest.approx(expected)


def test_the_shipped_schedules_have_their_formulas():
    given = ["constant", {"kind": "cosine", "least": 0.2}]
    given.append({"kind": "inverse-sqrt", "reference_steps": 25})
    values = [
        [Schedule.model_validate(each).factor(step, 100) for step in (0, 25, 50, 100)]
        for each in given
    ]
    assert values[0] == [1, 1, 1, 1]
    assert values[1] == pytest.approx([1, 0.2 + 0.8 * (1 + math.sqrt(0.5)) / 2, 0.6, 0.2])
    assert values[2] == pytest.approx([1, 1, math.sqrt(0.5), 0.5])


def test_only_another_schedule_than_the_papers_is_in_the_identity():
    assert "schedule" not in recipe(schedule="constant").identity()
    assert recipe(schedule="cosine").identity()["schedule"] == {"kind": "cosine", "least": 0.0}


@pytest.mark.parametrize(
    ("factor", "words"),
    [
        ("-1 if step == steps - 1 else 1", "the factor of step 6999 is -1; it must be finite and"),
        ("float('nan') if step == 3500 else 1", "the factor of step 3500 is nan"),
        ("1 / step", "factor of step 0: ZeroDivisionError"),
        ("None", "factor of step 0: TypeError"),
    ],
)
def test_a_wrong_factor_is_one_line_before_the_training(digits, outside, factor, words):
    text = "from psld.parts import Schedule\n\nclass Mine(Schedule):\n"
    text += f"    def factor(self, step, steps):\n        return {factor}\n"
    (outside / "wrong.py").write_text(text)
    given = (*TINY, f"data={digits}", "training.steps=7000", "training.schedule=wrong:Mine")
    refused(call(outside, "train", *given), 2, "training.schedule: wrong:Mine: ", words)
    assert not (outside / "runs").exists()
