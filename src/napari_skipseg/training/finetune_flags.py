"""From a command line's flags to the settings of a fine-tuning. Loads without torch."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from napari_skipseg.training.augmentation import AUGMENTATIONS
from napari_skipseg.training.finetune_settings import FinetuneSettings, finetune_from_json
from napari_skipseg.training.flags import choose, read_class, read_numbers


def finetune_from_flags(flags: dict[str, Any]) -> FinetuneSettings:
    """Return the settings of `flags` that are not None: classes as NAME=VALUE, a patch as 256,256.

    Raises:
        SpecError: a flag is not valid.
    """
    values = {name: flag for name, flag in flags.items() if flag is not None}
    values["classes"] = [read_class(text) for text in values.get("classes", [])]
    if "patch" in values:
        values["patch"] = read_numbers(values["patch"])
    if "augment" in values:
        values["augmentation"] = asdict(choose("augmentation", values.pop("augment"), AUGMENTATIONS))
    return finetune_from_json(json.dumps(values))
