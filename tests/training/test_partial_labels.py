"""Labels that judge some classes only: what they do not judge goes to the background, and the old network tells it."""

import pytest
import torch

from napari_skipseg.networks.network import class_probability
from napari_skipseg.training.losses import distillation_loss, loss, merge_unknown


def test_the_probability_of_an_unknown_class_goes_to_the_background():
    logits = torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    known = torch.tensor([[True, False, True], [True, True, True]])
    before, after = torch.softmax(logits, 1), torch.softmax(merge_unknown(logits, known), 1)
    assert torch.allclose(after[0, 0], before[0, 0] + before[0, 2], atol=1e-6)
    assert torch.allclose(after[0, [1, 3]], before[0, [1, 3]], atol=1e-6)
    assert not after[0, 2].any()
    assert torch.allclose(after[1], before[1], atol=1e-6)


def test_background_labels_do_not_push_an_unknown_class_down():
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    merged = merge_unknown(logits, torch.tensor([[False, True]]))
    loss("bce", merged, torch.zeros(1, 4, 4, dtype=torch.int8)).backward()
    probability = torch.softmax(logits.detach(), 1)
    share = probability[:, 1] / (probability[:, 0] + probability[:, 1])
    both = logits.grad[:, 0] + logits.grad[:, 1]
    assert (logits.grad[:, 2] > 0).all()
    assert torch.allclose(logits.grad[:, 1], both * share, atol=1e-6)  # it rises with the background, in its share


@pytest.mark.parametrize("name", ["bce", "dice", "focal+dice", "balanced"])
def test_every_loss_of_merged_logits_has_finite_gradients(name):
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    target = torch.randint(-1, 3, (2, 4, 4)).to(torch.int8)
    loss(name, merge_unknown(logits, torch.tensor([[False, True], [False, False]])), target).backward()
    assert torch.isfinite(logits.grad).all()


def test_one_channel_has_nothing_to_merge():
    logits = torch.randn(1, 1, 3, 3)
    assert merge_unknown(logits, torch.tensor([[False]])) is logits


@pytest.mark.parametrize("channels", [1, 3])
def test_the_old_networks_own_answers_are_the_minimum(channels):
    logits = torch.randn(2, channels, 4, 4, generator=torch.Generator().manual_seed(1))
    classes = max(1, channels - 1)
    answers, recalled = class_probability(logits), torch.ones(2, classes, dtype=torch.bool)
    counted = torch.ones(2, 4, 4, dtype=torch.bool)
    at_minimum = logits.clone().requires_grad_()
    distillation_loss(at_minimum, answers, range(classes), recalled, counted).backward()
    assert at_minimum.grad.abs().max() < 1e-6
    moved = distillation_loss(
        logits + torch.linspace(0, 1, channels + 1)[1:].view(1, -1, 1, 1), answers, range(classes), recalled, counted
    )
    assert moved > distillation_loss(logits, answers, range(classes), recalled, counted)


def test_a_new_class_counts_as_background_for_the_old_ones():
    old = torch.full((1, 1, 2, 2), 0.7)
    logits = torch.log(torch.tensor([0.2, 0.7, 0.1])).view(1, 3, 1, 1).expand(1, 3, 2, 2).clone().requires_grad_()
    counted = torch.ones(1, 2, 2, dtype=torch.bool)
    distillation_loss(logits, old, (0,), torch.tensor([[True, False]]), counted).backward()
    assert logits.grad.abs().max() < 1e-6


def test_voxels_that_do_not_count_and_patches_without_a_class_to_remember_teach_nothing():
    logits = torch.randn(2, 3, 2, 2, requires_grad=True)
    counted = torch.tensor([[[True, False]] * 2] * 2)
    distillation_loss(
        logits, torch.rand(2, 1, 2, 2), (0,), torch.tensor([[True, False], [False, False]]), counted
    ).backward()
    assert logits.grad[0, :, :, 0].abs().sum() > 0
    assert not logits.grad[0, :, :, 1].any()
    assert not logits.grad[1].any()
