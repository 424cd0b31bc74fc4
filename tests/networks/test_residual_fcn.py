"""The residual FCN of Drozdzal et al. 2016: its stages, its blocks in both orders, its skips."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import nn
from torch.nn import functional

from napari_skipseg.networks.build import build, count_parameters
from napari_skipseg.networks.residual_fcn import BlockOptions, ResidualBlock, _stage
from napari_skipseg.networks.specs import ResidualFCNSpec, Stage

CONVOLUTIONS = nn.Conv2d | nn.Conv3d
POST = BlockOptions(2, norm=True, dropout=0.0, short_skips=True, order="post-activation")


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
    branches = [block.branch for block in network.modules() if isinstance(block, ResidualBlock)]
    on_path = sum(isinstance(layer, CONVOLUTIONS) for branch in branches for layer in branch)
    assert on_path + 3 == 140


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("block", ["bottleneck", "basic", "simple"])
@pytest.mark.parametrize(("order", "end"), [("pre-activation", torch.clone), ("post-activation", torch.relu)])
def test_a_stage_with_silent_branches_decimates_or_repeats_its_input(block, dimensions, order, end):
    options = replace(POST, dimensions=dimensions, order=order)
    stage = Stage(block, 2, 3)
    image = torch.randn(2, stage.out_width, *(8, 12, 4)[:dimensions])
    down, up = (_stage(options, stage, stage.out_width, (resize,)).eval() for resize in ("halve", "double"))
    silence([*down, *up])
    every_second = (..., *[slice(None, None, 2)] * dimensions)
    with torch.no_grad():
        assert torch.equal(down(image), end(image[every_second]))
        assert torch.equal(up(image), end(doubled(image)))


@pytest.mark.parametrize("block", ["bottleneck", "basic", "simple"])
@pytest.mark.parametrize(("resize", "size"), [("keep", (8, 8)), ("halve", (4, 4)), ("double", (16, 16))])
def test_without_short_skips_a_block_is_its_branch(block, resize, size):
    alone = ResidualBlock(BlockOptions(2, True, 0.0, False), block, 5, 3, resize).eval()
    image = torch.randn(1, 5, 8, 8)
    with torch.no_grad():
        assert torch.equal(alone(image.clone()), alone.branch(image.clone()))
        assert alone(image).shape == (1, alone.out_channels, *size)
    assert not [name for name, _ in alone.named_parameters() if name.startswith("project")]


def test_the_shortcut_is_projected_only_where_widths_differ():
    options = BlockOptions(2, True, 0.0, True)
    assert isinstance(ResidualBlock(options, "bottleneck", 12, 3, "keep").project, nn.Identity)
    project = ResidualBlock(options, "bottleneck", 11, 3, "keep").project
    assert project.weight.shape == (12, 11, 1, 1)
    assert project.bias.shape == (12,)


def test_a_block_does_not_change_what_the_long_skip_holds():
    image = torch.randn(1, 4, 8, 8)
    before = image.clone()
    for order, norm, short_skips in product(("pre-activation", "post-activation"), (True, False), (True, False)):
        ResidualBlock(BlockOptions(2, norm, 0.0, short_skips, order), "simple", 4, 4, "halve")(image)
        assert torch.equal(image, before)


def widths_of_joins(**options):
    """Of each long skip, deepest first: the widths that its projections of the expanding path and the skip go to."""
    with torch.device("meta"):
        joins = build(ResidualFCNSpec(**options)).joins
    sides = [(join.project_up, join.project_skip) for join in joins]
    return [tuple(getattr(side, "out_channels", None) for side in pair) for pair in sides]


def test_sums_bring_widths_together_by_one_of_two_rules():
    assert widths_of_joins() == [(512, None), (256, None), (128, None), (32, None), (None, None)]
    assert widths_of_joins(projection="narrow") == [(128, 128), (64, 64), (32, 32), (32, None), (None, None)]
    assert widths_of_joins(skip="org") == [(None, None)] * 5
    assert widths_of_joins(skip="none") == [(None, None)] * 5


def test_long_skips_may_differ_per_level():
    skips = ("sat", "none", "sum", "at")
    stages = (Stage("simple", 4, 1), Stage("basic", 6, 1), Stage("bottleneck", 2, 1))
    spec = ResidualFCNSpec(level_skips=skips, width=3, stages=stages, across=Stage("simple", 5, 2))
    network = build(spec).eval()
    assert [join.joined_channels for join in reversed(network.joins)] == [4 + 1, 6, 6, 5 + 1]
    with torch.no_grad():
        attentions = network(torch.randn(1, 1, 16, 32)).attentions
    assert [attention.shape[2:] for attention in attentions] == [(16, 32), (2, 4)]
    assert network.attention_strides == (1, 8)


def test_kernels_start_he_normal_and_biases_at_zero():
    torch.manual_seed(0)
    network = build(ResidualFCNSpec(stages=(Stage("basic", 64, 1),), across=Stage("basic", 64, 2)))
    kernel = network.down[0][0].branch[-1].weight
    assert kernel.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)
    assert all(not bias.any() for name, bias in network.named_parameters() if name.endswith("bias"))


def branch_by_hand(block, name, image, resize):
    """The branch of a post-activation block whose batch norm changes nothing: its convolutions, ReLU between."""
    convolutions = [layer for layer in block.branch if isinstance(layer, CONVOLUTIONS)]
    if name == "simple":
        pooled = functional.max_pool2d(image, 2) if resize == "halve" else image
        convolved = functional.conv2d(pooled, convolutions[0].weight, convolutions[0].bias, padding=1)
        return doubled(convolved) if resize == "double" else convolved
    stride = 2 if resize == "halve" else 1
    for number, layer in enumerate(convolutions):
        if number == len(convolutions) - 1 and resize == "double":
            image = doubled(image)
        padding = layer.weight.shape[-1] // 2
        image = functional.conv2d(image, layer.weight, layer.bias, stride=1 if number else stride, padding=padding)
        image = image.relu() if number < len(convolutions) - 1 else image
    return image


@pytest.mark.parametrize("name", ["bottleneck", "basic", "simple"])
@pytest.mark.parametrize("resize", ["keep", "halve", "double"])
@pytest.mark.parametrize("short_skips", [True, False])
def test_a_post_activation_block_is_the_relu_of_convolutions_and_shortcut(name, resize, short_skips):
    block = ResidualBlock(replace(POST, short_skips=short_skips), name, 5, 3, resize).eval()
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0
    image = torch.randn(2, 5, 8, 6)
    shortcut = image[..., ::2, ::2] if resize == "halve" else doubled(image) if resize == "double" else image
    with torch.no_grad():
        expected = branch_by_hand(block, name, image, resize)
        if short_skips:
            expected = expected + functional.conv2d(shortcut, block.project.weight, block.project.bias)
        assert torch.allclose(block(image), expected.relu(), atol=1e-6)


def names(layers):
    return [type(layer).__name__ for layer in layers]


def test_the_order_of_each_block_s_layers():
    pre, post = (
        {name: names(ResidualBlock(options, name, 5, 3, "keep").branch) for name in ("bottleneck", "basic", "simple")}
        for options in (replace(POST, order="pre-activation"), POST)
    )
    unit = ["BatchNorm2d", "ReLU", "Conv2d"]
    assert pre == {
        "bottleneck": [*unit * 3, "Dropout"],
        "basic": [*unit, "Dropout", *unit],
        "simple": [*unit, "Dropout"],
    }
    assert post == {
        "bottleneck": ["Conv2d", *unit * 2, "BatchNorm2d", "Dropout"],
        "basic": ["Conv2d", "Dropout", *unit, "BatchNorm2d"],
        "simple": ["Conv2d", "BatchNorm2d", "Dropout"],
    }


def test_in_post_activation_order_the_outer_convolutions_are_activated_and_the_classifier_is_bare():
    pre, post = (
        build(ResidualFCNSpec(width=4, stages=(Stage("basic", 4, 1),), across=Stage("basic", 4, 2), block_order=order))
        for order in ("pre-activation", "post-activation")
    )
    assert (type(pre.first), type(pre.last)) == (nn.Conv2d, nn.Conv2d)
    assert names(pre.classifier) == ["BatchNorm2d", "ReLU", "Conv2d"]
    assert names(post.first) == names(post.last) == ["Conv2d", "BatchNorm2d", "ReLU"]
    assert names(post.classifier) == ["Conv2d"]


def test_table_1_keeps_its_size_in_either_order_but_for_batch_norm():
    """Pre-activation normalises the input of every convolution, post-activation its output."""
    assert count_parameters(ResidualFCNSpec(norm=False)) == 11_399_009
    assert count_parameters(ResidualFCNSpec(norm=False, block_order="post-activation")) == 11_399_009
    assert count_parameters(ResidualFCNSpec()) == 11_451_745
    assert count_parameters(ResidualFCNSpec(block_order="post-activation")) == 11_453_793
