"""Build the source archive and the wheel, and look at them as a stranger would meet them.

`python scripts/package.py FOLDER` leaves both files in FOLDER. It runs with the Python of the environment.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MOST_BYTES = 30 * 10**6
SITE = "https://napari-skipseg.github.io/napari-skipseg/"
NEEDED = (
    "py.typed",
    "__init__.pyi",
    "napari.yaml",
    "icon.svg",
    "batch/report.html",
    "models/builtin/em-membrane/weights.safetensors",
)
"""Files of the package that no import asks for, so that a build can lose them unnoticed."""
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"")
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def build(folder: Path) -> None:
    """Build the source archive, and the wheel from it, with the tools of this environment."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    left_behind = ROOT / "src" / "napari_skipseg.egg-info"
    was_there = left_behind.exists()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    if not was_there:  # it would be found as a second installation when `src` is on Python's path
        shutil.rmtree(left_behind, ignore_errors=True)


def find_faults(folder: Path) -> list[str]:
    """Return what is wrong with the source archive and the wheel in `folder`, a sentence each."""
    (wheel,), (archive,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    faults = [
        f"{file.name} has {file.stat().st_size / 1e6:.1f} MB: more than {MOST_BYTES / 1e6:.0f}."
        for file in (wheel, archive)
        if file.stat().st_size > MOST_BYTES
    ]
    checked = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", str(wheel), str(archive)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if checked.returncode:
        faults.append(f"twine: {checked.stdout.strip()} {checked.stderr.strip()}")
    with zipfile.ZipFile(wheel) as content:
        names = set(content.namelist())
        (described,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = message_from_bytes(content.read(described))
    faults += [f"The wheel lacks {name}." for name in NEEDED if f"napari_skipseg/{name}" not in names]
    for model in {name.split("/")[3] for name in names if name.startswith("napari_skipseg/models/builtin/")}:
        if f"napari_skipseg/models/builtin/{model}/LICENSE.txt" not in names:
            faults.append(f"The model {model} has no licence file in the wheel.")
    faults += [
        f"{name} of the wheel belongs to no package."
        for name in names
        if not name.startswith("napari_skipseg/") and ".dist-info/" not in name
    ]
    faults += link_faults(str(metadata.get_payload()))
    with tarfile.open(archive) as sources:
        inside = {name.partition("/")[2] for name in sources.getnames()}
    faults += [
        f"The source archive lacks {name}." for name in ("LICENSE", "README.md", "CITATION.cff") if name not in inside
    ]
    return faults


def link_faults(text: str) -> list[str]:
    """Return the links of a description that lead nowhere from another site, or to no page of the documentation."""
    faults = []
    for link in (match[1] or match[2] for match in LINK.finditer(FENCE.sub("", text))):
        if not link.startswith("https://"):
            faults.append(f"The link {link} of the README is not absolute.")
        elif link.startswith(SITE) and not is_page(link.removeprefix(SITE)):
            faults.append(f"The link {link} of the README leads to no page of the site.")
    return faults


def is_page(path: str) -> bool:
    """Return whether the documentation has a page or a picture at `path` below its address."""
    page = path.partition("#")[0].rstrip("/")
    made = ("", "models", "changelog", "contributing", "reference/command-line")
    return page in made or (ROOT / "docs" / f"{page}.md").is_file() or (ROOT / "docs" / page).is_file()


if __name__ == "__main__":
    target = Path(sys.argv[1])
    for old in [*target.glob("*.whl"), *target.glob("*.tar.gz")]:
        old.unlink()
    build(target)
    found = find_faults(target)
    sys.stdout.write(
        "".join(f"Built {file} ({file.stat().st_size / 1e6:.1f} MB)\n" for file in sorted(target.iterdir()))
    )
    sys.exit("\n".join(found))
