"""scripts/gpu_check.py runs where there is no GPU, says what it could not check, and reports what failed."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_models import write_tiny

SCRIPT = Path(__file__).parent.parent / "scripts" / "gpu_check.py"


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_check"] = module
    spec.loader.exec_module(module)
    return module


def reported(folder: Path) -> dict[str, dict[str, Any]]:
    return {each["check"]: each for each in json.loads((folder / "gpu_check.json").read_text(encoding="utf-8"))}


def test_what_needs_no_gpu_passes_on_the_cpu(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, only_torch: None
) -> None:
    tiny = write_tiny(tmp_path / "em-membrane")
    monkeypatch.setattr(script, "find_models", lambda: {"em-membrane": tiny})  # the real one takes 10 s
    names = ["machine", "recipe_is_clean", "batches_agree", "averages", "memory_factor", "gpu_tests"]
    assert script.main(["--device", "cpu", "--quick", "--out", str(tmp_path), "--only", *names]) == 0
    found = reported(tmp_path)
    assert {name: each["verdict"] for name, each in found.items()} == {
        **dict.fromkeys(names[:4], "PASS"),
        **dict.fromkeys(names[4:], "SKIP"),
    }
    assert found["averages"]["figures"]["average 8"]["agreement"] >= 0.999
    assert found["recipe_is_clean"]["figures"]["device"] == "cpu"
    table = (tmp_path / "gpu_check.md").read_text(encoding="utf-8").splitlines()
    assert len(table) == 2 + len(names)
    assert table[2].startswith("| machine | PASS |")


def test_a_check_that_fails_is_reported_and_the_others_go_on(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(setting: Any) -> Any:
        script.expect(False, "1 of 2 | agree")

    def fine(setting: Any) -> Any:
        return {"seconds": 1}

    monkeypatch.setattr(script, "CHECKS", (broken, fine))
    assert script.main(["--device", "cpu", "--out", str(tmp_path)]) == 1
    found = reported(tmp_path)
    assert (found["broken"]["verdict"], found["fine"]["verdict"]) == ("FAIL", "PASS")
    assert found["broken"]["figures"] == "AssertionError: 1 of 2 | agree"
    assert "in expect" in found["broken"]["details"]
    assert "1 of 2 \\| agree" in (tmp_path / "gpu_check.md").read_text(encoding="utf-8")
