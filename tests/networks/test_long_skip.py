"""Long skip connections: how what passes a gate joins the expanding path."""

import pytest
import torch
from torch import nn

from napari_skipseg.networks.gates import GateOptions, LongSkip
from napari_skipseg.networks.network import count_trainable
from napari_skipseg.networks.specs import SKIPS

OPTIONS = GateOptions(2, "uniform01", norm=False)


def projections(*widths, skip, narrow_to=None):
    join = LongSkip(OPTIONS, *widths, skip, narrow_to)
    sides = (join.project_up, join.project_skip)
    return [None if isinstance(side, nn.Identity) else tuple(side.weight.shape[:2]) for side in sides]


def test_a_sum_brings_widths_together_by_one_of_two_rules():
    assert projections(16, 8, skip="sum") == [(8, 16), None]
    assert projections(16, 8, skip="sum", narrow_to=2) == [(2, 16), (2, 8)]
    assert projections(8, 8, skip="sum") == [None, None]
    assert projections(8, 8, skip="sum", narrow_to=8) == [None, None]


@pytest.mark.parametrize("skip", [skip for skip in SKIPS if skip != "sum"])
def test_only_a_sum_needs_equal_widths(skip):
    assert projections(16, 8, skip=skip) == [None, None]
    assert projections(16, 8, skip=skip, narrow_to=2) == [None, None]


def test_features_are_left_out_summed_or_concatenated():
    up, skip = torch.randn(2, 1, 8, 4, 4)
    assert torch.equal(LongSkip(OPTIONS, 8, 8, "none")(up, skip).features, up)
    assert torch.equal(LongSkip(OPTIONS, 8, 8, "sum")(up, skip).features, up + skip)
    assert torch.equal(LongSkip(OPTIONS, 8, 8, "org")(up, skip).features, torch.cat([up, skip], 1))


def test_a_sum_of_unequal_widths_is_that_of_the_projections():
    join = LongSkip(OPTIONS, 6, 8, "sum", 3)
    up, skip = torch.randn(1, 6, 4, 4), torch.randn(1, 8, 4, 4)
    assert torch.equal(join(up, skip).features, join.project_up(up) + join.project_skip(skip))


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("skip", SKIPS)
def test_what_joins_stands_behind_the_expanding_path(skip, dimensions):
    join = LongSkip(GateOptions(dimensions, "uniform01", norm=True, maps=2), 6, 8, skip)
    up, features = torch.randn(2, 6, *[4] * dimensions), torch.randn(2, 8, *[4] * dimensions)
    joined = join(up, features)
    crossed = {"none": 0, "at": 2, "sat": 2, "reduce": 2}.get(skip, 8)
    assert joined.features.shape[1] == join.joined_channels == (8 if skip == "sum" else 6 + crossed)
    if skip != "sum":
        assert torch.equal(joined.features[:, :6], up)
    assert len(joined.attentions) == {"at": 2, "sat": 2, "additive": 1}.get(skip, 0)
    if skip in ("at", "sat"):
        assert torch.equal(joined.features[:, 6:], torch.cat(joined.attentions, 1))


def test_left_out_skips_have_no_parameters():
    assert count_trainable(LongSkip(OPTIONS, 6, 8, "none")) == 0
