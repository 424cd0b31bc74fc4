"""The Debian and Ubuntu packages that Qt, OpenGL and the virtual screen need: those missing are installed."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys

from machine import has_display, say

# A newer release may have renamed a package: any of the names between bars will do.
WINDOW_PACKAGES = (
    "libdbus-1-3",
    "libegl1",
    "libfontconfig1",
    "libgl1",
    "libgl1-mesa-dri",
    "libglib2.0-0|libglib2.0-0t64",
    "libopengl0",
    "libx11-xcb1",
    "libxcb-cursor0",
    "libxcb-icccm4",
    "libxcb-image0",
    "libxcb-keysyms1",
    "libxcb-randr0",
    "libxcb-render-util0",
    "libxcb-shape0",
    "libxcb-xinerama0",
    "libxcb-xkb1",
    "libxkbcommon-x11-0",
)
SCREEN_PACKAGES = ("xauth", "xvfb")
LIBRARIES = ("libEGL.so.1", "libGL.so.1", "libdbus-1.so.3", "libxcb-cursor.so.0", "libxkbcommon-x11.so.0")


def provide_system_packages() -> None:
    """Install what Debian or Ubuntu lacks; elsewhere on Linux name the libraries that do not load."""
    if shutil.which("dpkg-query"):
        install_packages(missing_packages())
    elif sys.platform == "linux" and (missing := [name for name in LIBRARIES if not _loads(name)]):
        say(f"System libraries are missing: install what holds {', '.join(missing)}; going on without them.")


def missing_packages() -> list[str]:
    """Return the packages that this machine lacks, according to dpkg."""
    needed = [*WINDOW_PACKAGES, *(() if has_display() else SCREEN_PACKAGES)]
    names = [name for entry in needed for name in entry.split("|")]
    query = ["dpkg-query", "--show", "--showformat", "${Package} ${db:Status-Status}\n", *names]
    listed = subprocess.run(query, capture_output=True, text=True, check=False).stdout.splitlines()
    installed = {line.split()[0] for line in listed if line.endswith(" installed")}
    missing = [entry.split("|")[0] for entry in needed if not installed.intersection(entry.split("|"))]
    return missing + _missing_python_parts()


def install_packages(packages: list[str]) -> None:
    """Install packages with apt-get where that is allowed; otherwise name them in one sentence and continue."""
    if not packages:
        return
    names = " ".join(packages)
    prefix = _rights()
    if prefix is None or shutil.which("apt-get") is None:
        say(f"System packages are missing: ask for 'sudo apt-get install {names}'; going on without them.")
        return
    say(f"System packages: installing {names}")
    apt = [*prefix, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-o", "Dpkg::Use-Pty=0"]
    _quietly([*apt, "update"])
    install = [*apt, "install", "-y", "--no-install-recommends"]
    if not _quietly([*install, *packages]):
        return
    failures = {name: failure for name in packages if (failure := _quietly([*install, name]))}
    if failures:
        reason = next(iter(failures.values()))
        say(f"apt-get could not install {' '.join(failures)} ({reason}); going on without them.")


def _missing_python_parts() -> list[str]:
    """Debian splits `ensurepip` off its own Python, and without it an environment gets no pip."""
    if not sys.executable.startswith(("/usr/bin/", "/bin/")):
        return []
    try:
        import ensurepip  # noqa: F401
    except ImportError:
        return [f"python3.{sys.version_info.minor}-venv"]
    return []


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _rights() -> list[str] | None:
    """Return the words before a command that run it as root; None if that needs a password."""
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") and not _quietly(["sudo", "-n", "true"]):
        return ["sudo", "-n"]
    return None


def _quietly(command: list[str]) -> str:
    """Return "" if the command succeeds, else its last line."""
    ended = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if ended.returncode == 0:
        return ""
    lines = ended.stdout.strip().splitlines()
    return lines[-1] if lines else f"exit code {ended.returncode}"
