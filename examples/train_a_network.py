"""Train a small U-Net with SAT gates on the synthetic sample, then see which channels its gates have switched off.

    python examples/train_a_network.py

A minute at most, so the model is no good: with your own images raise `widths`, `patch`, `batch` and `steps`,
or use `napari-skipseg train`. Killed, the same call goes on where it stopped.
"""

from __future__ import annotations

from pathlib import Path

import tifffile

import napari_skipseg as skipseg
from napari_skipseg.models.description import ClassLabel
from napari_skipseg.models.selection import read_selection


def main() -> None:
    sample = skipseg.make_sample((3, 192, 192), seed=1)
    tifffile.imwrite("image.tif", sample.stack.read((slice(None),) * 3), metadata={"axes": "ZYX"}, imagej=True)
    tifffile.imwrite("labels.tif", sample.membrane.astype("uint8"), metadata={"axes": "ZYX"}, imagej=True)

    settings = skipseg.TrainSettings(
        name="small-sat",
        images=("image.tif",),
        labels=("labels.tif",),
        classes=(ClassLabel("membrane", 1),),
        validate="2",
        spec=skipseg.UNetSpec(skip="sat", widths=(8, 16, 32)),
        patch=(64, 64),
        steps=40,
        validate_every=20,
    )
    folder = skipseg.run_to_end(skipseg.iter_train(settings, Path("models")))

    for name, score in skipseg.load_model(folder).description.card.scores.items():
        print(f"held-out {name}: {score:.3f}")
    for gate in read_selection(folder):
        print(f"{gate.place}: {gate.fraction_off:.0%} of {len(gate.weights)} channels off")


if __name__ == "__main__":
    main()
