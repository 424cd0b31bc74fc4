"""Make a built-in model of a trained one: its name, its scores on its card, and no sample of the training images.

    python benchmarks/models/ship.py TRAINED NAME [SETTINGS]

TRAINED is a model folder that `napari-skipseg train` wrote; the model is written to the built-in ones, over one of the
same NAME. SETTINGS is a settings file whose card replaces that of the training. The terms of the data do not allow to
pass the images on, so fine-tuning rehearses synthetic ones in place of the sample, if there are some for the class.
"""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

from napari_skipseg.models.catalog import BUILT_IN
from napari_skipseg.models.description import description_to_json
from napari_skipseg.models.folder import DESCRIPTION_FILE, WEIGHTS_FILE, read_description


def main(trained: Path, name: str, settings: Path | None) -> None:
    description = read_description(trained)
    card = description.card
    if settings is not None:
        stated = json.loads(settings.read_text(encoding="utf-8"))["card"]
        card = replace(
            card, **stated | {name: tuple(stated[name]) for name in ("commands", "pixel_sizes") if name in stated}
        )
    shipped = replace(description, name=name, card=card, sample_sha256=None)
    target = BUILT_IN / name
    target.mkdir(exist_ok=True)
    shutil.copyfile(trained / WEIGHTS_FILE, target / WEIGHTS_FILE)
    (target / DESCRIPTION_FILE).write_text(description_to_json(shipped), encoding="utf-8")
    print(f"{target}: {sum(file.stat().st_size for file in target.iterdir()) / 1e6:.1f} MB")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]) if len(sys.argv) > 3 else None)
