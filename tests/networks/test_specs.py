"""Specifications: what they refuse, in one sentence, whether they come from JSON or from Python."""

import json
import warnings
from typing import get_args

import pytest

from napari_skipseg.errors import SpecError
from napari_skipseg.networks.specs import (
    NETWORK_NAMES,
    SKIPS,
    NetworkSpec,
    Stage,
    UNetSpec,
    spec_from_dict,
    spec_to_dict,
)

CLASSES = {spec.network: spec for spec in get_args(NetworkSpec)}
IMPOSSIBLE = [
    *((network, {"dimensions": 4}, "dimensions is 4: choose 2 or 3") for network in NETWORK_NAMES),
    *((network, {"in_channels": 0}, "at least one input") for network in NETWORK_NAMES),
    *((network, {"out_channels": 0}, "one output channel") for network in NETWORK_NAMES),
    *((network, {"dropout": 1.0}, "Dropout") for network in NETWORK_NAMES),
    *(
        (network, {"skip": "gate"}, "skip is 'gate': choose 'none', 'sum', 'org', .* or 'reduce'")
        for network in CLASSES
    ),
    *((network, {"level_skips": ("sat", "gate")}, "'gate': choose 'none', 'sum'") for network in NETWORK_NAMES),
    *((network, {"select_init": "zeros"}, "select_init is 'zeros': choose 'glorot'") for network in NETWORK_NAMES),
    *((network, {"gate_maps": 0}, "at least one map") for network in NETWORK_NAMES),
    *((network, {"gate_maps": 3, "skip": "org"}, "no long skip has a gate that makes maps") for network in CLASSES),
    ("unet", {"gate_maps": 2, "level_skips": ("org", "none", "additive")}, "no long skip has a gate that makes maps"),
    ("unet", {"level_skips": ("sat",) * 4}, "has 3 long skips and level_skips names 4"),
    ("residual-fcn", {"level_skips": ("sat",) * 4}, "has 5 long skips and level_skips names 4"),
    ("vnet", {"level_skips": ("sat",) * 5}, "has 4 long skips and level_skips names 5"),
    ("tiramisu", {"level_skips": ("sat",)}, "has 5 long skips and level_skips names 1"),
    ("di2in", {"level_skips": ("sat",) * 3}, "has 4 long skips and level_skips names 3"),
    ("unet", {"widths": (8,)}, "at least two"),
    ("unet", {"widths": ()}, "at least two"),
    ("unet", {"widths": (8, 0)}, "at least 1"),
    ("vnet", {"widths": (8,), "convolutions": (1,)}, "at least two"),
    ("vnet", {"widths": (8, 0), "convolutions": (1, 1)}, "at least 1"),
    ("vnet", {"widths": (8, 16)}, "one number per stage"),
    ("vnet", {"convolutions": (1, 2, 3, 3, 0)}, "each at least 1"),
    ("vnet", {"kernel": 4}, "odd"),
    ("vnet", {"kernel": -1}, "odd"),
    ("tiramisu", {"layers": ()}, "at least 1"),
    ("tiramisu", {"layers": (4, 0)}, "at least 1"),
    ("tiramisu", {"growth": 0}, "at least 1"),
    ("tiramisu", {"bottom_layers": 0}, "at least 1"),
    ("tiramisu", {"bottleneck": -1}, "bottleneck"),
    ("di2in", {"widths": (8,)}, "at least two"),
    ("di2in", {"widths": (8, 1)}, "at least 2"),
    ("residual-fcn", {"stages": ()}, "at least one stage"),
    ("residual-fcn", {"width": 0}, "at least 1"),
    ("residual-fcn", {"projection": "wide"}, "projection is 'wide': choose 'skip-width' or 'narrow'"),
    ("residual-fcn", {"block_order": "in-activation"}, "block_order is 'in-activation': choose 'pre-activation' or"),
    ("residual-fcn", {"across": Stage("basic", 8, 1)}, "2 blocks"),
]


def as_json(values):
    return json.loads(json.dumps(values, default=vars))


def title(value):
    return value if isinstance(value, str) else ",".join(map(str, value))


@pytest.mark.parametrize(("network", "values", "fault"), IMPOSSIBLE, ids=title)
def test_an_impossible_network_is_refused_in_one_sentence(network, values, fault):
    with pytest.raises(SpecError, match=fault) as in_python:
        CLASSES[network](**values)
    with pytest.raises(SpecError, match=fault) as in_json:
        spec_from_dict({"network": network, **as_json(values)})
    for caught in (in_python, in_json):
        sentence = str(caught.value)
        assert "\n" not in sentence
        assert sentence.endswith(".")
        assert f"{network}." not in sentence, "the key of a union is none of the user's settings"


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"network": "vgg"}, "network is 'vgg': choose one of 'unet', 'residual-fcn', 'vnet', 'tiramisu', 'di2in'"),
        ({}, "network is missing"),
        ({"network": "unet", "colour": "red"}, "no setting called colour"),
        ({"network": "unet", "stages": []}, "no setting called stages"),
        ({"network": "residual-fcn", "across": {"block": "basic", "width": 8, "x": 1}}, "across"),
        ({"network": "residual-fcn", "across": {"block": "basic", "width": 8}}, "across.repetition is missing"),
        ({"network": "residual-fcn", "across": {"block": "dense", "width": 8, "repetition": 2}}, "'dense': choose"),
        ({"network": "residual-fcn", "stages": [{"block": "basic", "width": 0, "repetition": 1}]}, "at least 1"),
        ({"network": "unet", "widths": [8, "wide"]}, "widths.1: Input should be a valid integer"),
        ({"network": "unet", "widths": 8}, "widths: "),
        ({"network": "unet", "gate_norm": "perhaps"}, "gate_norm: "),
        ("unet", "network settings are not valid"),
    ],
    ids=str,
)
def test_json_that_is_no_network_is_refused_in_one_sentence(values, fault):
    with pytest.raises(SpecError, match=fault) as caught:
        spec_from_dict(values)
    assert "\n" not in str(caught.value)
    assert str(caught.value).count(". ") == 0


@pytest.mark.parametrize(
    ("values", "fault"),
    [(("dense", 8, 1), "block is 'dense': choose"), (("basic", 0, 1), "at least 1"), (("basic", 8, 0), "at least 1")],
)
def test_an_impossible_stage_is_refused(values, fault):
    with pytest.raises(SpecError, match=fault):
        Stage(*values)


def test_level_skips_stand_in_for_the_skip_of_all():
    assert UNetSpec().skips == ("sat", "sat", "sat")
    mixed = UNetSpec(skip="org", level_skips=("none", "at", "additive"), gate_maps=2)
    assert mixed.skips == ("none", "at", "additive")
    assert mixed.attention_strides == (2, 2, 4)


def test_every_network_takes_every_skip():
    for skip in SKIPS:
        assert {CLASSES[network](skip=skip).skip for network in NETWORK_NAMES} == {skip}


@pytest.mark.parametrize("network", NETWORK_NAMES)
def test_a_list_is_as_good_as_a_tuple(network):
    made = CLASSES[network](level_skips=["sat"] * CLASSES[network]().levels)
    assert made == CLASSES[network](level_skips=("sat",) * made.levels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert spec_from_dict(spec_to_dict(made)) == made
    assert hash(made) == hash(spec_from_dict(spec_to_dict(made)))
