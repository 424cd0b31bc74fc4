"""A network in 8-bit integers beside float32: agreement with it, V_rand and speed. Needs NNCF (`pip install nncf`).

    python benchmarks/int8.py [--model em-membrane] [--isbi FOLDER] [--side 512]

A U-Net of ours is quantised by NNCF on the model's rehearsal samples, in four ways that build on each other: all
layers; first layer, gates and classifier in float32; the ranges of channels made equal; the finest level in float32.
Ranges are made equal by scaling a channel down where it is made and up where it is read, which changes nothing in
float32. Scored on synthetic slices that are none of the samples, and on two slices of ISBI 2012, FOLDER's
train-volume and train-labels. Seconds are of the processor, so other work disturbs them little.
"""

from __future__ import annotations

import argparse
import copy
import logging
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile
import torch
from measuring import print_place, print_table
from numpy.typing import NDArray
from torch import nn

import napari_skipseg as skipseg
from napari_skipseg.images.intensity.normalize import measure
from napari_skipseg.images.space import Space
from napari_skipseg.inference.backends import openvino_backend
from napari_skipseg.inference.backends.folding import Probabilities, ready_for_inference
from napari_skipseg.models.catalog import BUILT_IN
from napari_skipseg.training.finetune.rehearsal import rehearsal_samples_of

Images = NDArray[np.float32]
CALIBRATED = 12
"""Patches that ranges are measured on."""
CALIBRATED_SIDE = 128
NARROWEST = 1e-3
ENDS = ("encoder.0.0", "attend", "classifier")
FINEST = (*ENDS, "encoder.0.3", "decoder.0")
"""Parts of the names of layers that stay in float32."""


class Scored(NamedTuple):
    """Images (N, Y, X) in standard units, and where cells are."""

    name: str
    images: Images
    cells: NDArray[np.bool_]


def equalised(network: Probabilities, images: Images) -> Probabilities:
    """Return a copy of a folded U-Net whose channels have equal ranges on `images`; its output stays the same."""
    changed = copy.deepcopy(network)
    unet: Any = changed.network
    pairs = [(unet.up[level], unet.decoder[level][0]) for level in range(len(unet.up))]
    pairs += [(each[0], each[3]) for each in (*unet.decoder, *unet.encoder)]
    highest: dict[nn.Module, torch.Tensor] = {}

    def look(layer: nn.Module, given: Any, output: torch.Tensor) -> None:
        highest[layer] = output.abs().amax(dim=(0, 2, 3))

    hooks = [made.register_forward_hook(look) for made, _ in pairs]
    with torch.inference_mode():
        changed(torch.from_numpy(images[..., :CALIBRATED_SIDE, :CALIBRATED_SIDE]))
        for made, read in pairs:
            width = len(highest[made])
            scale = highest[made].clamp(min=NARROWEST)
            if not isinstance(made, nn.ConvTranspose2d):  # half to the values, half to the kernels that read them
                kernels = read.weight.abs().amax(dim=(0, 2, 3)).clamp(min=NARROWEST)
                scale = (scale / kernels).sqrt()
                scale = scale / scale.median()
            first = (1, -1, 1, 1) if isinstance(made, nn.ConvTranspose2d) else (-1, 1, 1, 1)
            made.weight.data /= scale.view(first)
            made.bias.data /= scale
            read.weight.data[:, :width] *= scale.view(1, -1, 1, 1)
    for hook in hooks:
        hook.remove()
    return changed


def converted(network: Probabilities) -> Any:
    """Return a folded network as OpenVINO's, for images of the size that NNCF is given."""
    example = torch.zeros(1, 1, 256, 256)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(network, example, check_trace=False)
        return openvino_backend._openvino().convert_model(traced, example_input=example, input=[tuple(example.shape)])


def quantised(network: Any, images: Images, kept: tuple[str, ...]) -> Any:
    """Return an OpenVINO network in int8, calibrated on `images` (N, C, Y, X). kept: layers that stay in float32."""
    import nncf

    nncf.set_log_level(logging.ERROR)
    layers = [each.get_friendly_name() for each in network.get_ordered_ops() if "Convolution" in each.get_type_name()]
    ignored = nncf.IgnoredScope(names=[name for name in layers if any(part in name for part in kept)])
    data = nncf.Dataset([image[None] for image in images])
    return nncf.quantize(
        network,
        data,
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(images),
        ignored_scope=ignored if kept else None,
    )


def samples(side: int, isbi: Path | None) -> Iterator[Scored]:
    """Yield what is scored."""
    made = skipseg.make_sample((2, side, side), seed=7)
    yield Scored("synthetic", standard(np.asarray(made.stack.read((slice(None),) * 3))), made.membrane == 0)
    if isbi is not None:
        part = (slice(20, 22), slice(side), slice(side))
        image, cells = (tifffile.imread(next(isbi.glob(f"train-{name}*.tif"))) for name in ("volume", "labels"))
        yield Scored("ISBI", standard(image)[part], cells[part] > 0)


def standard(values: NDArray[Any]) -> Images:
    """Return grey values (N, Y, X) in standard units."""
    return measure(skipseg.Stack(values, Space("ZYX"))).apply(values)


def run_all(network: Any, precision: str, scored: list[Scored]) -> tuple[list[Images], float]:
    """Return the probability (N, Y, X) of each sample, and the least processor seconds of a slice."""
    ready = network.clone()
    ready.reshape([1, 1, *scored[0].images.shape[1:]])
    options = openvino_backend._options(precision)
    request = openvino_backend._core().compile_model(ready, "CPU", options).create_infer_request()
    found, seconds = [], []
    for each in scored:
        slices = []
        for image in each.images:
            start = time.process_time()
            request.infer({0: np.ascontiguousarray(image[None, None])})
            seconds.append(time.process_time() - start)
            slices.append(request.output_tensors[0].data[0, 0].copy())
        found.append(np.stack(slices))
    return found, min(seconds)


def v_rand(probability: Images, cells: NDArray[np.bool_]) -> float:
    """Return V_rand of a probability of membrane, rounded to 8 bits as it is stored."""
    return skipseg.score_isbi(1 - np.round(probability * 255) / np.float32(255), cells).v_rand


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="em-membrane")
    parser.add_argument("--isbi", type=Path)
    parser.add_argument("--side", type=int, default=512)
    flags = parser.parse_args()
    model = skipseg.load_model(flags.model)
    rehearsal = rehearsal_samples_of(BUILT_IN / flags.model, model.description)
    images = rehearsal.images[:CALIBRATED].astype(np.float32)
    scored = list(samples(flags.side, flags.isbi))
    print_place(f"{flags.model}, slices of {flags.side}²")
    folded = ready_for_inference(model)
    plain, even = converted(folded), converted(equalised(folded, images))
    truth, least = run_all(plain, "f32", scored)
    networks = {
        "bf16": (plain, openvino_backend.compiled_precision().name),
        "int8, all layers": (quantised(plain, images, ()), "f32"),
        "int8, first layer, gates and classifier in f32": (quantised(plain, images, ENDS), "f32"),
        "the same, ranges made equal": (quantised(even, images, ENDS), "f32"),
        "the same, the finest level in f32": (quantised(even, images, FINEST), "f32"),
    }
    if networks["bf16"][1] == "f32":
        del networks["bf16"]
    own = [("", f"{v_rand(found, each.cells):.4f}") for found, each in zip(truth, scored, strict=True)]
    lines = [["f32", f"{least:.2f}", "", *(cell for pair in own for cell in pair)]]
    for title, (network, precision) in networks.items():
        found, seconds = run_all(network, precision, scored)
        cells = []
        for probability, reference, each in zip(found, truth, scored, strict=True):
            same = ((probability > 0.5) == (reference > 0.5)).mean()
            cells += [f"{same:.3%}", f"{v_rand(probability, each.cells) - v_rand(reference, each.cells):+.4f}"]
        lines.append([title, f"{seconds:.2f}", f"{least / seconds:.2f}×", *cells])
    heads = [head for each in scored for head in (f"{each.name}: agreement", "V_rand (difference)")]
    print_table(("network", "processor seconds of a slice", "faster by", *heads), lines)


if __name__ == "__main__":
    main()
