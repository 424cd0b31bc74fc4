"""What `napari-skipseg benchmark` measures and prints, with a network that costs next to nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_models import write_tiny
from typer.testing import CliRunner

from napari_skipseg.cli import app
from napari_skipseg.devices import versions
from napari_skipseg.inference import kept_speed, machine_speed
from napari_skipseg.inference.backends import choose, compiled
from napari_skipseg.inference.kept_speed import NetworkSpeed, find_network_speed, keep_speed, read_machine_speed
from napari_skipseg.inference.pipeline import WRITING_THREADS


@pytest.fixture(autouse=True)
def small_and_on_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(compiled.COMPILED_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(machine_speed, "_SAMPLE", {2: (1, 160, 160), 3: (32, 64, 64)})
    monkeypatch.setattr(machine_speed, "_SIDE", {2: 64, 3: 32})
    for module in (choose, machine_speed):
        monkeypatch.setattr(module, "has_openvino", lambda: False)


def test_figures_of_each_part_are_measured_kept_and_add_up(tmp_path: Path) -> None:
    models = [write_tiny(tmp_path / "flat"), write_tiny(tmp_path / "deep", 3)]
    assert read_machine_speed() is None
    command = ["benchmark", "--device", "cpu", "--json", *(part for each in models for part in ("--model", str(each)))]
    ran = CliRunner().invoke(app, command)
    assert ran.exit_code == 0, ran.output
    found = json.loads(ran.stdout.strip().splitlines()[-1])
    assert found == read_machine_speed()
    flat, deep = found["models"]
    assert (flat["model"], len(flat["tile"]), deep["model"], len(deep["tile"])) == ("flat", 2, "deep", 3)
    for each in (flat, deep):
        assert each["voxels_per_second"] == pytest.approx(1e9 / each["network"])
        assert min(each["reading"], each["network"], each["writing"]) > 0
        slowest = max(each["reading"], each["network"], each["writing"] / WRITING_THREADS)
        assert each["stack_seconds"] >= 2**30 * slowest / 1e9 * 0.99
    assert flat["slice_seconds"] < flat["stack_seconds"]
    assert deep["slice_seconds"] is None
    assert {(each["model"], each["backend"]) for each in found["backends"]} == {("flat", "torch")}
    assert "f32" in [each["precision"] for each in found["backends"]]


def test_the_table_names_the_machine_and_each_model(tmp_path: Path) -> None:
    ran = CliRunner().invoke(app, ["benchmark", "--device", "cpu", "--model", str(write_tiny(tmp_path / "flat"))])
    assert ran.exit_code == 0, ran.output
    for word in ("processor", "bf16", "Mvox/s", "pyramid", "1 GiB", "flat", "torch"):
        assert word in ran.stdout


def test_a_kept_speed_holds_for_the_same_versions_while_the_machine_is_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    model = {"model": "flat", "backend": "torch", "precision": "f32", "tile": [10, 10], "batch": 2}
    timed = model | {"batch_seconds": 4.0, "batch_processor": 8.0}
    found = {"versions": versions(), "load": 0.1, "device": "CPU", "models": [timed]}
    asked = ("flat", "CPU", "torch", "f32")
    monkeypatch.setattr(kept_speed, "load", lambda: 0.2)
    assert find_network_speed(*asked) is None
    keep_speed(found)
    assert find_network_speed(*asked) == NetworkSpeed(0.02, 0.04)
    for other in (("deep", *asked[1:]), ("flat", "GPU", "torch", "f32"), (*asked[:3], "bf16")):
        assert find_network_speed(*other) is None
    monkeypatch.setattr(kept_speed, "load", lambda: 0.9)
    assert find_network_speed(*asked) is None, "the machine is busy now"
    monkeypatch.setattr(kept_speed, "load", lambda: 0.2)
    for changed in ({"load": 0.9}, {"versions": {}}, {"models": [model]}, {"models": None}):
        keep_speed(found | changed)
        assert find_network_speed(*asked) is None, changed
