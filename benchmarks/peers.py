"""A peer from file to file, in a process of its own: the same weights and grey values, with the peer's tiling.

    python benchmarks/peers.py {monai,torch_em,nnunet} IN OUT [--model em-membrane] [--window 256] [--overlap 0.25]
        [--mode constant] [--batch 1] [--tuned {f32,bf16}]

IN is a TIFF (Z, Y, X); OUT gets probability.tif and binary.tif, uint8, as ours does. --tuned: weights of that type in
channels-last, by hand. torch_em takes its halo from the model's margin; --window counts it. A peer that is not
installed ends with exit code 3.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import types
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import tifffile
import torch
from numpy.typing import NDArray

from napari_skipseg.api import load_model
from napari_skipseg.images.intensity.normalize import measure
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.models.model import Model
from napari_skipseg.networks.network import class_probability

Images = NDArray[np.float32]
NOT_INSTALLED = 3
TYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Setting:
    """The settings of a peer's run. tuned: the type of weights in channels-last, None = float32 as loaded."""

    window: int
    overlap: float
    mode: str
    batch: int
    tuned: torch.dtype | None


class Plain(torch.nn.Module):
    """The model's network as a peer sees it: image in, float32 logits (or probabilities) out, no attention maps."""

    def __init__(self, model: Model, tuned: torch.dtype | None, probability: bool) -> None:
        super().__init__()
        self.network, self.tuned, self.probability = model.network, tuned, probability
        if tuned is not None:
            self.network.to(tuned, memory_format=torch.channels_last)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if self.tuned is not None:
            image = image.to(self.tuned, memory_format=torch.channels_last)
        logits = self.network(image).logits.float()
        return class_probability(logits) if self.probability else logits


def run_monai(model: Model, images: Images, setting: Setting) -> Images:
    from monai.inferers import sliding_window_inference

    network = Plain(model, setting.tuned, probability=True)
    window = (setting.window, setting.window)
    with torch.inference_mode():
        slices = torch.from_numpy(images)[:, None]
        return sliding_window_inference(
            slices, window, setting.batch, network, setting.overlap, mode=setting.mode
        ).numpy()[:, 0]


def run_torch_em(model: Model, images: Images, setting: Setting) -> Images:
    stand_in_for_torchvision()
    predict_with_halo = importlib.import_module("torch_em.util.prediction").predict_with_halo
    network = Plain(model, setting.tuned, probability=True)
    halo = model.description.margin
    block = setting.window - 2 * halo
    output = np.zeros_like(images)
    for number, image in enumerate(images):
        part = output[number : number + 1]
        predict_with_halo(
            image, network, ["cpu"], (block, block), (halo, halo), part, preprocess=None, disable_tqdm=True
        )
    return output


def stand_in_for_torchvision() -> None:
    """Let torch_em be imported where torchvision is not installed: its predictor calls nothing of it."""
    if find_spec("torchvision") is not None:
        return
    for name in ("", ".utils", ".transforms", ".models", ".models._utils", ".models.resnet"):
        module = types.ModuleType(f"torchvision{name}")
        module.__spec__ = ModuleSpec(module.__name__, None, is_package=True)
        module.__path__ = []
        module.__getattr__ = _nothing  # type: ignore[method-assign]
        sys.modules[module.__name__] = module


def _nothing(name: str) -> type:
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (), {})


def run_nnunet(model: Model, images: Images, setting: Setting) -> Images:
    predictor_type = importlib.import_module("nnunetv2.inference.predict_from_raw_data").nnUNetPredictor
    predictor = predictor_type(
        tile_step_size=1 - setting.overlap,
        use_gaussian=setting.mode == "gaussian",
        use_mirroring=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    network = Plain(model, setting.tuned, probability=False)
    heads = types.SimpleNamespace(num_segmentation_heads=model.description.spec.out_channels)
    plans = types.SimpleNamespace(get_label_manager=lambda dataset: heads)
    configuration = types.SimpleNamespace(patch_size=(setting.window, setting.window))
    predictor.manual_initialization(network, plans, configuration, None, {}, "", None)
    logits = predictor.predict_sliding_window_return_logits(torch.from_numpy(images)[None])
    return torch.sigmoid(logits[0].float()).numpy()


PEERS = {"monai": run_monai, "torch_em": run_torch_em, "nnunet": run_nnunet}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("image", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="em-membrane")
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--overlap", type=float, default=0.25)
    parser.add_argument("--mode", choices=("constant", "gaussian"), default="constant")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--tuned", choices=TYPES)
    flags = parser.parse_args()

    model = load_model(flags.model)
    values = tifffile.imread(flags.image)
    values = values.reshape(-1, *values.shape[-2:])
    images = measure(Stack(values, Space("ZYX"))).apply(values)
    setting = Setting(flags.window, flags.overlap, flags.mode, flags.batch, TYPES.get(flags.tuned))
    try:
        probability = PEERS[flags.peer](model, images, setting)
    except ModuleNotFoundError as error:
        print(f"not installed ({error})")
        sys.exit(NOT_INSTALLED)
    flags.out.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(flags.out / "probability.tif", np.round(probability * 255).astype(np.uint8))
    tifffile.imwrite(flags.out / "binary.tif", (probability > 0.5).astype(np.uint8))


if __name__ == "__main__":
    main()
