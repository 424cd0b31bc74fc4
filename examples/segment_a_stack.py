"""Segment a stack in Python and save probability, binary and attention maps as OME-TIFF.

    python examples/segment_a_stack.py [FOLDER]

The stack is the package's own sample, made from numbers; `read_stack("yours.tif")` takes its place.
"""

from __future__ import annotations

import sys
from pathlib import Path

import napari_skipseg as skipseg


def main(folder: Path) -> None:
    stack = skipseg.make_sample((2, 256, 256), seed=3).stack
    model = skipseg.load_model("em-membrane")

    work = skipseg.iter_predict(skipseg.RunSpec(stack, model, skipseg.SegmentOptions(device="auto")))
    prediction = skipseg.run_to_end(work, lambda progress: print(f"{progress.fraction:4.0%}  {progress.message}"))

    share = float(prediction.binary(0.5).mean())
    voxels = f"voxels of {stack.space.voxel_size} {stack.space.unit}"
    print(f"{prediction.class_names[0]} covers {share:.1%} of {stack.shape}, {voxels}")
    for file in skipseg.save_prediction(prediction, folder, "sample", threshold=0.5):
        print(file)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "results"))
