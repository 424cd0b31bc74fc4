"""From a command line's flags to the settings of a fine-tuning. Loads without torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from napari_skipseg.training.finetune_settings import FinetuneSettings, finetune_from_json
from napari_skipseg.training.flags import read_class, read_numbers


def finetune_from_flags(values: dict[str, Any], classes: Sequence[str], patch: str | None) -> FinetuneSettings:
    """Return the settings of `values`, with classes as NAME=VALUE and a patch as 256,256.

    Raises:
        SpecError: a flag is not valid.
    """
    named = {"classes": [read_class(text) for text in classes], "patch": read_numbers(patch) if patch else []}
    return finetune_from_json(json.dumps(values | named))
