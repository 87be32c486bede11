"""Quantization: the official formula, clipped and truncated."""

import torch

from psld.data.store import from_uint8, to_uint8, truncated


def test_from_uint8_spans_minus_one_to_one():
    x = from_uint8(torch.tensor([0, 255], dtype=torch.uint8))
    assert x.dtype == torch.float32
    assert x.tolist() == [-1.0, 1.0]


def test_to_uint8_clips_and_truncates():
    x = torch.tensor([-7.0, -1.0, 0.0, 0.999, 1.0, 7.0])
    u = to_uint8(x)
    assert u.dtype == torch.uint8
    assert u.tolist() == [0, 0, 127, 254, 255, 255]  # 127.5 → 127 and 254.87 → 254


def test_there_and_back_loses_at_most_one_level():
    u = torch.arange(256, dtype=torch.uint8)
    lost = u.int() - to_uint8(from_uint8(u)).int()
    assert set(lost.tolist()) <= {0, 1}
    # In the middle of a level nothing is lost.
    assert torch.equal(to_uint8(from_uint8(u) + 1 / 255), u)


def test_the_official_code_writes_some_levels_one_lower():
    """Its datasets are read in float64 and handed on in float32."""
    u = torch.arange(256, dtype=torch.uint8)
    lost = u.int() - truncated(u).int()
    assert sorted(lost.tolist()) == [0] * 161 + [1] * 95
