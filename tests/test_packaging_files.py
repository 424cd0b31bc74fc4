"""Files for other package managers name the dependencies of pyproject.toml, so that they cannot be forgotten there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from rattler_build import Stage0Recipe, VariantConfig

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONDA_NAMES = {"dask[array]": "dask-core", "torch": "pytorch", "matplotlib": "matplotlib-base"}


def conda_line(requirement: str) -> str:
    """Return a requirement of pyproject.toml as conda-forge writes it."""
    name, version = re.fullmatch(r"([\w.\[\]-]+)(>=.*)", requirement).groups()
    return f"{CONDA_NAMES.get(name, name)} {version}"


def test_the_conda_recipe_has_the_dependencies_and_the_licences_of_the_package() -> None:
    text = (ROOT / "packaging" / "conda" / "recipe.yaml").read_text(encoding="utf-8")
    (variant,) = Stage0Recipe.from_yaml(text).render(VariantConfig())  # refuses unknown fields and licences
    recipe = variant.recipe.to_dict()
    assert recipe["build"]["noarch"] == "python"
    viewer = {conda_line(line) for line in PROJECT["optional-dependencies"]["napari"]}
    needed = {conda_line(line) for line in PROJECT["dependencies"]}
    assert set(recipe["requirements"]["run"]) == {f"python {PROJECT['requires-python']}"} | needed | viewer
    assert recipe["about"]["license"] == PROJECT["license"]
    files = {
        str(file.relative_to(ROOT).as_posix()) for pattern in PROJECT["license-files"] for file in ROOT.glob(pattern)
    }
    assert set(recipe["about"]["license_file"]) == files


def test_the_container_gets_every_file_that_a_build_reads() -> None:
    copied = re.search(
        r"^COPY (.*) \./$", (ROOT / "packaging" / "Containerfile").read_text(encoding="utf-8"), re.MULTILINE
    )
    sent = {
        line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line.startswith("!")
    }
    assert copied is not None
    assert set(copied[1].split()) | {"src"} == sent
    assert all((ROOT / name).exists() for name in sent)
