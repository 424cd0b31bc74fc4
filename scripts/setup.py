"""Set the environment up: system packages, the virtual environment, this checkout with extras and dependency groups.

`python scripts/setup.py NAME...` takes the names of extras and of dependency groups in pyproject.toml. If all is
installed, it changes nothing: a stamp in the environment says what was installed from which files. The versions are
those of constraints.txt; with --lowest they are the oldest that pyproject.toml allows, with --newest the newest,
pre-releases of napari included.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
import tomllib
from typing import Any

from machine import ROOT, VENV, program, say, stop
from system_packages import provide_system_packages

STAMP = VENV / "napari-skipseg-setup.json"
LOG = VENV / "napari-skipseg-setup.log"
SHOWN_LINES = 10
NEEDED = {"dev": {"all", "export"}, "test": {"all", "export"}, "benchmark": {"openvino"}}
"""The extras of the package that the tools of a dependency group need."""
WITH_PYSIDE6 = {"all": {"bioimageio", "openvino", "cluster", "pyside6"}}
"""Extras in place of others if QT_API asks for PySide6."""


NO_DEPS = ["--no-deps", "bioimageio.core"]
"""What the tests need of bioimageio.core: 0.11.0 requires a release of bioimageio.spec that pydantic 2.14 breaks."""


def main(arguments: list[str]) -> None:
    """Leave an environment in which this checkout is installed, editable, with extras and groups of these names."""
    names = [name for name in arguments if not name.startswith("--")]
    flags = {name for name in arguments if name.startswith("--")}
    if os.name == "posix":
        provide_system_packages()
    version = make_environment()
    have = installed_names(version)
    wanted = set(names).union(*(NEEDED.get(name, set()) for name in names))
    if os.environ.get("QT_API", "").lower() == "pyside6":
        wanted = set().union(*(WITH_PYSIDE6.get(name, {name}) for name in wanted))
    if wanted <= have:
        say(f"Environment: ready (Python {version} in {VENV})")
        return
    install(sorted(have | wanted), version, flags)


def make_environment() -> str:
    """Return the version of the environment's Python; make the environment where none is usable."""
    has_python = can_run("sys") and not was_moved() and is_of_asked_version()
    if has_python and can_run("pip"):
        return environment_version()
    if VENV.exists() and any(VENV.iterdir()) and not (VENV / "pyvenv.cfg").exists():
        stop(f"{VENV} is not a virtual environment: name a different folder with VENV=...")
    say(f"Environment: making {VENV} with Python {sys.version.split()[0]}")
    base = getattr(sys, "_base_executable", sys.executable)
    command = [base, "-m", "venv", *([] if has_python else ["--clear"]), str(VENV)]
    made = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    if made.returncode or not can_run("pip"):
        stop(
            f"{base} cannot make an environment in {VENV}: install its venv module "
            f"(Debian and Ubuntu: apt-get install python3.{sys.version_info.minor}-venv) and run this again."
        )
    return environment_version()


def can_run(module: str) -> bool:
    """Return whether the environment's Python runs and can import `module`."""
    try:
        ended = subprocess.run([program("python"), "-c", f"import {module}"], capture_output=True, check=False)
    except OSError:
        return False
    return ended.returncode == 0


def was_moved() -> bool:
    """Return whether the environment was made elsewhere: its programs would start the old one."""
    return bool(read_stamp().get("environment", str(VENV)) != str(VENV))


def is_of_asked_version() -> bool:
    """Return whether the environment has the Python that PYTHON names, if it names one."""
    return not os.environ.get("PYTHON") or environment_version().startswith(f"3.{sys.version_info.minor}.")


def environment_version() -> str:
    """Return the version of the environment's Python."""
    code = "import platform; print(platform.python_version())"
    ended = subprocess.run([program("python"), "-c", code], capture_output=True, text=True, check=False)
    return ended.stdout.strip()


def read_stamp() -> dict[str, Any]:
    """Return the stamp of the last complete installation; empty if there was none."""
    try:
        stamp: dict[str, Any] = json.loads(STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp


def installed_names(version: str) -> set[str]:
    """Return the extras and groups that the stamp names: none if the files or the checkout are different now."""
    stamp = read_stamp()
    if stamp.get("made_from") != made_from(version) or not is_installed_from_here():
        return set()
    return set(stamp["names"])


def made_from(version: str) -> dict[str, str]:
    """Return the facts that an installation depends on: the files' hash, the checkout, the Python version."""
    digest = hashlib.sha256()
    for name in ("pyproject.toml", "constraints.txt"):
        digest.update((ROOT / name).read_bytes())
    return {"sha256": digest.hexdigest(), "checkout": str(ROOT), "python": version}


def is_installed_from_here() -> bool:
    """Return whether the package in the environment is the editable one of this checkout."""
    records = [
        *VENV.glob("lib/python*/site-packages/napari_skipseg-*.dist-info/direct_url.json"),
        *VENV.glob("Lib/site-packages/napari_skipseg-*.dist-info/direct_url.json"),
    ]
    urls = [json.loads(record.read_text(encoding="utf-8")).get("url") for record in records]
    return urls == [ROOT.as_uri()]


def group_packages(groups: dict[str, Any], name: str) -> list[str]:
    """Return the requirements of a dependency group; pip reads groups itself only from 25.1 on."""
    packages: list[str] = []
    for entry in groups[name]:
        packages += [entry] if isinstance(entry, str) else group_packages(groups, entry["include-group"])
    return packages


def install(names: list[str], version: str, flags: set[str]) -> None:
    """Install this checkout with extras and groups in the versions of `flags`; write the stamp at the end."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
    extras = ",".join(name for name in names if name not in groups)
    wanted = f".[{extras}]" if extras else "."
    packages = [package for name in names if name in groups for package in group_packages(groups, name)]
    say(f"Packages: installing {' '.join([wanted, *(name for name in names if name in groups)])} (minutes at first)")
    STAMP.unlink(missing_ok=True)
    began = time.monotonic()
    with LOG.open("w", encoding="utf-8") as log:
        for command in install_commands(wanted, packages, flags):
            ended = subprocess.run(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, check=False
            )
            if ended.returncode:
                break
    if ended.returncode:
        say("\n".join(LOG.read_text(encoding="utf-8", errors="replace").splitlines()[-SHOWN_LINES:]))
        stop(f"pip could not install the packages: mend what {LOG} says at its end and run this again.")
    stamp = {"made_from": made_from(version), "names": names, "environment": str(VENV)}
    STAMP.write_text(json.dumps(stamp) + "\n", encoding="utf-8")
    say(f"Packages: ready after {time.monotonic() - began:.0f} s")


def install_commands(wanted: str, packages: list[str], flags: set[str]) -> list[list[str]]:
    """Return the commands that install `wanted`, this checkout with extras, and the packages of groups."""
    pip = [
        program("python"),
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--no-input",
        "install",
        "--no-compile",  # what is imported is compiled then: all of it takes a minute, most is never imported
        "--progress-bar",
        "off",
    ]
    if "--newest" in flags:
        newest = [*pip, "--upgrade", "-e", wanted, *packages]
        return [newest, [*pip, *NO_DEPS], [*pip, "--upgrade", "--pre", "napari", "npe2"]]
    if "--lowest" in flags:
        uv = [program("uv"), "pip", "install", "--python", program("python"), "--resolution", "lowest-direct"]
        return [[*pip, "uv"], [*uv, "-e", wanted], [*pip, *packages]]
    pinned = [*pip, "-c", "constraints.txt"]
    core = [[*pinned, *NO_DEPS]] if any(package.startswith("xarray") for package in packages) else []
    return [[*pinned, "-e", wanted, *packages], *core]


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        stop("Stopped; run it again to continue.")
