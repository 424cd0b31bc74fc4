"""What a stranger installs: the wheel and the source archive, the description on PyPI, and the types."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tomllib
import zlib
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).parents[1]
CONSUMER = """
import napari_skipseg as skipseg

stack: skipseg.Stack = skipseg.read_stack("stack.tif")
unit: str = stack.space.unit
spec = skipseg.UNetSpec(widths=(8, 16), skip="sat")
model = skipseg.load_model("em-membrane")
shape: tuple[int, ...] = skipseg.segment(stack, model).probability.shape
wrong: int = stack.space.unit
"""
LIBRARIES = (
    "torch dask distributed matplotlib mrcfile numba numcodecs openvino PIL psutil rich safetensors scipy skimage"
)
SETTINGS = f"""
[mypy]
strict = True
[mypy-{",".join(f"{name}.*" for name in [*LIBRARIES.split(), "tifffile", "typer", "zarr"])}]
follow_imports = skip
ignore_missing_imports = True
"""
"""Settings of a consumer's mypy; it looks at our types, and not for minutes at those of large libraries."""


@pytest.fixture(scope="module")
def package() -> ModuleType:
    spec = importlib.util.spec_from_file_location("package", ROOT / "scripts" / "package.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_wheel_and_source_archive_are_complete_and_small(package: ModuleType, tmp_path: Path) -> None:
    package.build(tmp_path)
    assert package.find_faults(tmp_path) == []


def test_weights_leave_room_in_the_wheel_for_all_else(package: ModuleType) -> None:
    files = sorted((ROOT / "src" / "napari_skipseg" / "models" / "builtin").glob("*/weights.safetensors"))
    assert len(files) == 5
    assert sum(len(zlib.compress(file.read_bytes())) for file in files) < package.MOST_BYTES - 1.5e6


@pytest.mark.parametrize(
    "link",
    ["docs/images/panel.png", "#install", "http://example.org", "https://napari-skipseg.github.io/napari-skipseg/no/"],
)
def test_a_link_that_leads_nowhere_is_found(package: ModuleType, link: str) -> None:
    assert len(package.link_faults(f"See [this]({link}).")) == 1
    assert len(package.link_faults(f'<img src="{link}">')) == 1


def test_the_types_of_the_package_are_seen_by_those_who_use_it(tmp_path: Path) -> None:
    (tmp_path / "consumer.py").write_text(CONSUMER, encoding="utf-8")
    (tmp_path / "mypy.ini").write_text(SETTINGS, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--no-error-summary", "consumer.py"]
    checked = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    (error,) = checked.stdout.splitlines()
    assert error.startswith("consumer.py:9:")
    assert "[assignment]" in error


def test_all_descriptions_of_the_software_say_the_same() -> None:
    """codemeta.json, CITATION.cff and pyproject.toml are read by different sites, which quote them side by side."""
    codemeta = json.loads((ROOT / "codemeta.json").read_text(encoding="utf-8"))
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    urls = project["urls"]

    assert codemeta["@context"] == "https://doi.org/10.5063/schema/codemeta-2.0"
    assert codemeta["name"] == citation["title"] == project["name"]
    assert codemeta["description"] == citation["abstract"]
    assert project["description"].startswith(codemeta["description"].removesuffix("."))
    assert codemeta["license"] == f"https://spdx.org/licenses/{citation['license']}"
    assert project["license"].split(" AND ")[0] == citation["license"]
    assert codemeta["url"] == citation["url"] == urls["Homepage"]
    assert codemeta["softwareHelp"] == urls["Documentation"]
    assert codemeta["codeRepository"] == citation["repository-code"] == urls["Source"]
    assert codemeta["issueTracker"] == urls["Bug Tracker"]
    authors = [author["name"] for author in project["authors"]]
    assert [author["name"] for author in codemeta["author"]] == authors
    assert [author["name"] for author in citation["authors"]] == authors
    papers = [paper["name"] for paper in codemeta["referencePublication"]]
    assert papers == [paper["title"] for paper in citation["references"]]
