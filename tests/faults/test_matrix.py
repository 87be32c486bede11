"""The matrix itself: no field is empty."""

from tests.faults.matrix import FAULTS, fields_with_tests
from tests.faults.stages import STAGES


def test_every_field_has_a_test():
    assert fields_with_tests() == {(fault, stage.name) for fault in FAULTS for stage in STAGES}
