"""Losses against values computed by hand."""

import math
from typing import get_args

import pytest
import torch

from napari_skipseg.training.losses import IGNORED, loss
from napari_skipseg.training.settings import LossName

NAMES = get_args(LossName)


def logits_of(probabilities):
    return torch.logit(torch.tensor(probabilities, dtype=torch.float64))[None, None]


TWO_BY_TWO = [[0.9, 0.2], [0.6, 0.5]]
TRUTH = torch.tensor([[[1, 0], [1, 0]]])


def test_cross_entropy_by_hand():
    expected = -(math.log(0.9) + math.log(0.8) + math.log(0.6) + math.log(0.5)) / 4
    assert float(loss("bce", logits_of(TWO_BY_TWO), TRUTH)) == pytest.approx(expected)


def test_pixels_of_a_class_count_by_their_weight():
    expected = -(3 * math.log(0.9) + math.log(0.8) + 3 * math.log(0.6) + math.log(0.5)) / 8
    assert float(loss("bce", logits_of(TWO_BY_TWO), TRUTH, class_weight=3.0)) == pytest.approx(expected)


def test_dice_by_hand():
    # overlap 0.9 + 0.6, sizes 2.2 and 2
    expected = -(2 * 1.5 + 1) / (2.2 + 2 + 1)
    assert float(loss("dice", logits_of(TWO_BY_TWO), TRUTH)) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["bce+dice", "focal+dice", "balanced+dice"])
def test_a_name_with_plus_is_the_sum_of_both(name):
    whole, *parts = (float(loss(each, logits_of(TWO_BY_TWO), TRUTH)) for each in (name, *name.split("+")))
    assert whole == pytest.approx(sum(parts))


def test_focal_by_hand():
    true = (0.9, 0.8, 0.6, 0.5)
    expected = -sum((1 - p) ** 2 * math.log(p) for p in true) / 4
    assert float(loss("focal", logits_of(TWO_BY_TWO), TRUTH)) == pytest.approx(expected)
    expected = -sum(w * (1 - p) ** 2 * math.log(p) for w, p in zip((3, 1, 3, 1), true, strict=True)) / 8
    assert float(loss("focal", logits_of(TWO_BY_TWO), TRUTH, class_weight=3.0)) == pytest.approx(expected)


def test_balanced_by_hand():
    target = torch.tensor([[[1, 0], [0, 0]]])  # one pixel of the class weighs as much as three of the background
    background = -(math.log(0.8) + math.log(0.4) + math.log(0.5)) / 3
    value = float(loss("balanced", logits_of(TWO_BY_TWO), target))
    assert value == pytest.approx((-math.log(0.9) + background) / 2)
    value = float(loss("balanced", logits_of(TWO_BY_TWO), target, class_weight=3.0))
    assert value == pytest.approx((-3 * math.log(0.9) + background) / 4)


def test_classes_are_balanced_over_the_whole_batch():
    logits = torch.logit(torch.tensor([0.9, 0.2, 0.6, 0.5])).view(2, 1, 1, 2)
    target = torch.tensor([[[1, 0]], [[IGNORED, 0]]])
    expected = -math.log(0.9) / 2 - (math.log(0.8) + math.log(0.5)) / 4
    assert float(loss("balanced", logits, target)) == pytest.approx(expected)


@pytest.mark.parametrize("weight", [0.1, 1.0, 5.0])
def test_a_class_that_is_not_there_has_no_weight(weight):
    expected = -(math.log(0.1) + math.log(0.8) + math.log(0.4) + math.log(0.5)) / 4
    value = loss("balanced", logits_of(TWO_BY_TWO), torch.zeros(1, 2, 2), class_weight=weight)
    assert float(value) == pytest.approx(expected)
    value = loss("balanced", logits_of(TWO_BY_TWO), torch.ones(1, 2, 2), class_weight=weight)
    assert float(value) == pytest.approx(-(math.log(0.9) + math.log(0.2) + math.log(0.6) + math.log(0.5)) / 4)


@pytest.mark.parametrize("shape", [(2, 4, 5), (1, 3, 4, 5)])
def test_a_perfect_prediction_has_dice_minus_1_and_no_entropy(shape):
    target = torch.randint(0, 2, shape)
    logits = (target * 200.0 - 100)[:, None]
    assert float(loss("dice", logits, target)) == pytest.approx(-1, abs=1e-6)
    assert float(loss("bce", logits, target)) == pytest.approx(0, abs=1e-6)


def test_nothing_there_and_nothing_found_is_a_perfect_dice():
    assert float(loss("dice", torch.full((1, 1, 4, 4), -100.0), torch.zeros(1, 4, 4))) == pytest.approx(-1)


def test_dice_is_of_the_whole_batch():
    logits = torch.full((2, 1, 2, 2), 100.0)
    target = torch.tensor([[[1, 1], [1, 1]], [[0, 0], [0, 0]]])
    assert float(loss("dice", logits, target)) == pytest.approx(-(2 * 4 + 1) / (8 + 4 + 1))


def test_several_classes_by_hand():
    probabilities = torch.tensor([[0.7, 0.1], [0.2, 0.6], [0.1, 0.3]])  # background and two classes, at two pixels
    logits = probabilities.log().T.reshape(1, 2, 3).movedim(2, 1)[..., None]
    target = torch.tensor([[[0], [1]]])
    assert float(loss("bce", logits, target)) == pytest.approx(-(math.log(0.7) + math.log(0.6)) / 2, rel=1e-5)
    expected = -(0.3**2 * math.log(0.7) + 0.4**2 * math.log(0.6)) / 2
    assert float(loss("focal", logits, target)) == pytest.approx(expected, rel=1e-5)
    first, second = -(2 * 0.6 + 1) / (0.8 + 1 + 1), -1 / (0.4 + 0 + 1)
    assert float(loss("dice", logits, target)) == pytest.approx((first + second) / 2, rel=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_ignored_pixels_neither_count_nor_get_a_gradient(name, channels):
    torch.manual_seed(0)
    logits = torch.randn(2, channels, 4, 4, requires_grad=True)
    target = torch.randint(0, max(2, channels), (2, 4, 4))
    ignored = torch.rand(2, 4, 4) < 0.5
    target[ignored] = IGNORED
    value = loss(name, logits, target)
    value.backward()
    gradient = logits.grad.movedim(1, -1)
    assert not gradient[ignored].any()
    assert gradient[~ignored].any(dim=-1).all()
    with torch.no_grad():
        other = logits + 50 * torch.randn_like(logits) * ignored[:, None]
        assert float(loss(name, other, target)) == pytest.approx(float(value), rel=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_a_batch_in_which_nothing_counts_has_a_finite_loss_without_gradient(name, channels):
    logits = torch.randn(1, channels, 4, 4, requires_grad=True)
    value = loss(name, logits, torch.full((1, 4, 4), IGNORED))
    value.backward()
    assert torch.isfinite(value)
    assert not logits.grad.any()


def test_several_classes_weigh_the_same_when_balanced():
    logits = torch.randn(1, 4, 2, 3)  # background and three classes, the last of which is not there
    target = torch.tensor([[[0, 0, 0], [1, 1, 2]]])
    entropy = -logits.log_softmax(1).gather(1, target[:, None])[0, 0]
    expected = (entropy[0].mean() + entropy[1, :2].mean() + entropy[1, 2]) / 3
    assert float(loss("balanced", logits, target)) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_two_classes_by_softmax_have_the_loss_of_one_by_sigmoid(name):
    logits = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    target = torch.randint(-1, 2, (2, 4, 4))
    two = torch.cat([torch.zeros_like(logits), logits], dim=1)
    assert float(loss(name, two, target, 2.0)) == pytest.approx(float(loss(name, logits, target, 2.0)))
