"""Write constraints.txt: the exact version of every package in this environment, for every platform."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

CONSTRAINTS = Path(__file__).resolve().parent.parent / "constraints.txt"
HEADER = "# The exact versions the tests ran with, for pip install -c; written by 'make constraints'.\n"
LEFT_OUT = ("napari-skipseg", "pip", "setuptools", "wheel", "pyside6", "shiboken6", "nvidia-", "triton")


def pins() -> list[str]:
    """Return `name==version` lines in order, without local versions such as torch's `+cpu`."""
    versions = {found.name: found.version.split("+")[0] for found in metadata.distributions()}
    kept = {name: version for name, version in versions.items() if not name.lower().startswith(LEFT_OUT)}
    return [f"{name}=={kept[name]}" for name in sorted(kept, key=str.lower)]


if __name__ == "__main__":
    lines = pins()
    CONSTRAINTS.write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8")
    sys.stdout.write(f"constraints.txt holds {len(lines)} versions.\n")
