"""The matrix itself: no field is empty, and every reason cites code that exists."""

import importlib
from functools import reduce

import pytest

from tests.faults.matrix import FAULTS, REASONS, fields_with_tests
from tests.faults.stages import STAGES

MOST_REASONS = 20

FIELDS = {(fault, stage.name) for fault in FAULTS for stage in STAGES}


def test_every_field_is_a_test_or_a_reason():
    assert fields_with_tests() | REASONS.keys() == FIELDS
    assert not fields_with_tests() & REASONS.keys()
    assert len(REASONS) <= MOST_REASONS


@pytest.mark.parametrize("field", REASONS, ids="-".join)
def test_a_reason_cites_code_that_exists(field):
    sentence, code = REASONS[field]
    module, _, name = code.partition(":")
    assert callable(reduce(getattr, name.split("."), importlib.import_module(module)))
    assert sentence.endswith(".")
