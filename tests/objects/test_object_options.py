"""Options of a search for objects: impossible ones are refused in one sentence."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from napari_skipseg.errors import InputError
from napari_skipseg.objects.options import ObjectOptions


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"method": "magic"}, "choose one of components, watershed, cells"),
        ({"seeds": "hand"}, "choose one of distance, probability"),
        ({"border": "cut"}, "choose one of keep, remove"),
        ({"planes": "xz"}, "choose one of volume, slices"),
        ({"threshold": 1.5}, "between 0 and 1"),
        ({"merge": -0.1}, "between 0 and 1"),
        ({"seed_distance": float("nan")}, "between 0 and 64"),
        ({"smallest": -1}, "0 or more"),
        ({"smallest": 9, "largest": 5}, "exchange the two sizes"),
    ],
)
def test_impossible_options_are_refused_with_the_cure(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        ObjectOptions(**values)


def test_options_survive_json_and_unknown_keys_do_not() -> None:
    adapter = TypeAdapter(ObjectOptions)
    options = ObjectOptions("cells", "membrane", seeds="probability", merge=0.2, fill_holes=True)
    assert adapter.validate_json(adapter.dump_json(options)) == options
    with pytest.raises(ValidationError):
        adapter.validate_python({"methods": "cells"})
