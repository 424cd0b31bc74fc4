"""The baseline of fine-tuning: MONAI's BasicUNet, trained from scratch for as long on the same labels."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.losses import DiceCELoss
from monai.networks.nets import BasicUNet
from numpy.typing import NDArray

PATCH = 256
BATCH = 4
RATE = 1e-3


def train_basic_unet(
    image: NDArray[Any], truth: NDArray[np.uint8], seconds: float, work: Path, seed: int = 0
) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Return a function from a slice (Y, X) to the probability of the class, trained for so many seconds.

    image, truth: (Z, Y, X), truth 1 = background, 2 = class. Adam with a rate that falls as a cosine over the time,
    Dice + cross-entropy, random patches of 256² with flips and quarter turns, bf16 autocast with channels-last: MONAI's
    parts as in its tutorials, in their fastest form. Weights are kept in `work`.
    """
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    grey = ((image - image.mean()) / image.std()).astype(np.float32)
    network = BasicUNet(spatial_dims=2, in_channels=1, out_channels=1).to(memory_format=torch.channels_last)
    saved = work / "monai.pt"
    if saved.exists():
        network.load_state_dict(torch.load(saved, weights_only=True))
    else:
        optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
        criterion = DiceCELoss(sigmoid=True)
        start = time.perf_counter()
        while (spent := time.perf_counter() - start) < seconds:
            for group in optimizer.param_groups:
                group["lr"] = RATE * 0.5 * (1 + np.cos(np.pi * spent / seconds))
            images, targets = draw(grey, truth, generator)
            with torch.autocast("cpu", torch.bfloat16):
                logits = network(images.to(memory_format=torch.channels_last))
            loss = criterion(logits.float(), targets)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        torch.save(network.state_dict(), saved)
    network.eval()

    def predict(of_slice: NDArray[Any]) -> NDArray[Any]:
        values = ((of_slice - image.mean()) / image.std()).astype(np.float32)
        with torch.inference_mode():
            return torch.sigmoid(network(torch.from_numpy(values)[None, None]))[0, 0].numpy()

    return predict


def draw(
    grey: NDArray[np.float32], truth: NDArray[np.uint8], generator: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a batch of patches and their truth, (N, 1, 256, 256) each."""
    images, targets = [], []
    for _ in range(BATCH):
        z, y, x = (int(generator.integers(n)) for n in (len(grey), *(side - PATCH + 1 for side in grey.shape[1:])))
        patch = grey[z, y : y + PATCH, x : x + PATCH], truth[z, y : y + PATCH, x : x + PATCH] == 2
        turns, flip = int(generator.integers(4)), bool(generator.integers(2))
        turned = [np.rot90(part, turns) for part in patch]
        turned = [part[:, ::-1] for part in turned] if flip else turned
        images.append(turned[0].copy())
        targets.append(turned[1].astype(np.float32))
    return torch.from_numpy(np.stack(images))[:, None], torch.from_numpy(np.stack(targets))[:, None]
