"""The script in the guide for clusters says only what there is."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

from napari_skipseg.batch.settings import BatchSettings
from napari_skipseg.inference.options import SegmentOptions

GUIDE = Path(__file__).parents[2] / "docs" / "cluster.md"


def script() -> ast.Module:
    (text,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    return ast.parse(text)


def test_what_the_script_takes_from_us_is_there() -> None:
    taken = [node for node in ast.walk(script()) if isinstance(node, ast.ImportFrom) and node.module != "dask_jobqueue"]
    assert len(taken) == 4
    for node in taken:
        module = importlib.import_module(str(node.module))
        assert all(hasattr(module, name.name) for name in node.names)


def test_the_options_that_the_script_gives_are_known() -> None:
    calls = {
        node.func.id: {str(keyword.arg) for keyword in node.keywords}
        for node in ast.walk(script())
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert calls["SegmentOptions"] <= set(SegmentOptions.__dataclass_fields__)
    assert calls["BatchSettings"] <= set(BatchSettings.__dataclass_fields__)
