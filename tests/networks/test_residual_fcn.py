"""The residual FCN of Drozdzal et al. 2016: its stages, its blocks, its skips."""

import pytest
import torch
from torch import nn

from napari_skipseg.networks.blocks import Block, BlockOptions
from napari_skipseg.networks.build import build
from napari_skipseg.networks.residual_fcn import LongSkip, _stage
from napari_skipseg.networks.specs import ResidualFCNSpec, Stage

CONVOLUTIONS = nn.Conv2d | nn.Conv3d


def silence(blocks):
    """Zero the last convolution of every residual branch."""
    for block in blocks:
        last = [layer for layer in block.branch if isinstance(layer, CONVOLUTIONS)][-1]
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)


def doubled(image):
    for axis in range(2, image.ndim):
        image = image.repeat_interleave(2, dim=axis)
    return image


def shapes_inside(network, size):
    """Output shapes of the stages of a network for a meta image of `size`, by name."""
    shapes = {}
    stages = {"first": network.first, "across": network.across, "across, inside": network.across[0]}
    stages |= {f"down {n}": stage for n, stage in enumerate(network.down, start=2)}
    stages |= {f"up {n}": stage for n, stage in enumerate(network.up, start=1)} | {"last": network.last}
    for name, module in stages.items():
        module.register_forward_hook(lambda _m, _i, out, name=name: shapes.__setitem__(name, tuple(out.shape[1:])))
    network.run(torch.empty(1, 1, *size, device="meta"))
    return shapes


def test_table_1_stage_by_stage():
    with torch.device("meta"):
        network = build(ResidualFCNSpec())
    assert network.stride == 32
    assert shapes_inside(network, (512, 512)) == {
        "first": (32, 512, 512),
        "down 2": (32, 256, 256),
        "down 3": (128, 128, 128),
        "down 4": (256, 64, 64),
        "down 5": (512, 32, 32),
        "across, inside": (1024, 16, 16),
        "across": (1024, 32, 32),
        "up 1": (512, 64, 64),
        "up 2": (256, 128, 128),
        "up 3": (128, 256, 256),
        "up 4": (32, 512, 512),
        "last": (32, 512, 512),
    }
    assert [len(stage) for stage in (*network.down, network.across, *network.up)] == [1, 3, 8, 10, 3, 10, 8, 3, 1]


def test_140_weighted_layers_on_the_main_path():
    with torch.device("meta"):
        network = build(ResidualFCNSpec())
    branches = [block.branch for block in network.modules() if isinstance(block, Block)]
    on_path = sum(isinstance(layer, CONVOLUTIONS) for branch in branches for layer in branch)
    assert on_path + 3 == 140


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("block", ["bottleneck", "basic", "simple"])
def test_a_stage_with_silent_branches_decimates_or_repeats_its_input(block, dimensions):
    options = BlockOptions(dimensions, norm=True, dropout=0.0, short_skips=True)
    stage = Stage(block, 2, 3)
    image = torch.randn(2, stage.out_width, *(8, 12, 4)[:dimensions])
    down, up = (_stage(options, stage, stage.out_width, (resize,)).eval() for resize in ("halve", "double"))
    silence([*down, *up])
    every_second = (..., *[slice(None, None, 2)] * dimensions)
    with torch.no_grad():
        assert torch.equal(down(image), image[every_second])
        assert torch.equal(up(image), doubled(image))


@pytest.mark.parametrize("block", ["bottleneck", "basic", "simple"])
@pytest.mark.parametrize(("resize", "size"), [("keep", (8, 8)), ("halve", (4, 4)), ("double", (16, 16))])
def test_without_short_skips_a_block_is_its_branch(block, resize, size):
    alone = Block(BlockOptions(2, True, 0.0, False), block, 5, 3, resize).eval()
    image = torch.randn(1, 5, 8, 8)
    with torch.no_grad():
        assert torch.equal(alone(image.clone()), alone.branch(image.clone()))
        assert alone(image).shape == (1, alone.out_channels, *size)
    assert not [name for name, _ in alone.named_parameters() if name.startswith("project")]


def test_the_shortcut_is_projected_only_where_widths_differ():
    options = BlockOptions(2, True, 0.0, True)
    assert isinstance(Block(options, "bottleneck", 12, 3, "keep").project, nn.Identity)
    project = Block(options, "bottleneck", 11, 3, "keep").project
    assert project.weight.shape == (12, 11, 1, 1)
    assert project.bias.shape == (12,)


def test_a_block_does_not_change_what_the_long_skip_holds():
    image = torch.randn(1, 4, 8, 8)
    before = image.clone()
    for norm in (True, False):
        Block(BlockOptions(2, norm, 0.0, True), "simple", 4, 4, "halve")(image)
        assert torch.equal(image, before)


def projections(**options):
    join = LongSkip(ResidualFCNSpec(**options), 16, 8, 2)
    sides = (join.project_up, join.project_skip)
    return [None if isinstance(side, nn.Identity) else tuple(side.weight.shape[:2]) for side in sides]


def test_sums_bring_widths_together_by_one_of_two_rules():
    assert projections() == [(8, 16), None]
    assert projections(projection="narrow") == [(2, 16), (2, 8)]
    assert projections(skip="org") == [None, None]
    assert projections(skip="none") == [None, None]


def test_long_skips_are_summed_concatenated_or_left_out():
    up, skip = torch.randn(2, 1, 8, 4, 4)
    assert torch.equal(LongSkip(ResidualFCNSpec(), 8, 8, 8)(up, skip), up + skip)
    assert torch.equal(LongSkip(ResidualFCNSpec(skip="org"), 8, 8, 8)(up, skip), torch.cat([up, skip], 1))
    assert torch.equal(LongSkip(ResidualFCNSpec(skip="none"), 8, 8, 8)(up, skip), up)


def test_kernels_start_he_normal_and_biases_at_zero():
    torch.manual_seed(0)
    network = build(ResidualFCNSpec(stages=(Stage("basic", 64, 1),), across=Stage("basic", 64, 2)))
    kernel = network.down[0][0].branch[-1].weight
    assert kernel.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)
    assert all(not bias.any() for name, bias in network.named_parameters() if name.endswith("bias"))
