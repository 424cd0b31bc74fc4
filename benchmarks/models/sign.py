"""Write into a model's description what its training images look like, and how sure its network is of them.

    SKIPSEG_DATA=folder python benchmarks/models/sign.py src/napari_skipseg/models/builtin/em-membrane

Training writes both by itself (`training.seen`); this is for models that were trained before it did. The images are
those that the model's record names, below SKIPSEG_DATA.
"""

import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from napari_skipseg.devices import choose_device
from napari_skipseg.images.files import read_stack
from napari_skipseg.images.intensity.normalize import measure
from napari_skipseg.inference.backends.torch_backend import TorchBackend
from napari_skipseg.models.description import description_to_json
from napari_skipseg.models.folder import DESCRIPTION_FILE
from napari_skipseg.models.model import read_model
from napari_skipseg.training.seen import with_signature


def main() -> None:
    data = Path(os.environ["SKIPSEG_DATA"])
    for folder in map(Path, sys.argv[1:]):
        model = read_model(folder)
        images = []
        for name in model.description.training.settings["images"]:
            stack = read_stack(data / name)
            images.append(measure(stack).apply(np.asarray(stack.data[...]))[None])
        unsigned = replace(model.description, signatures=(), certainty=None)
        signed = with_signature(unsigned, images, TorchBackend(model, choose_device("cpu"), "f32"), None, 0)
        (folder / DESCRIPTION_FILE).write_text(description_to_json(signed), encoding="utf-8")
        print(f"{folder.name}: certainty {signed.certainty}, {len(signed.signatures)} signature")


if __name__ == "__main__":
    main()
