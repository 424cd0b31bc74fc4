"""Show the sample segmented: in a napari window or, without a display, as a screenshot and files."""

from __future__ import annotations

import subprocess
import sys

from machine import ROOT, has_display, has_virtual_screen, on_screen, program, say, screen_environment, stop

OUTPUT = "demo-output"


def main() -> None:
    """Run `napari-skipseg demo` as this machine can."""
    command = [program("napari-skipseg"), "demo"]
    if has_display():
        say("Demo: opening napari with the sample segmented")
    elif has_virtual_screen():
        say(f"Demo: no display, so the same in a virtual screen; the results go to {OUTPUT}")
        command = on_screen([*command, "--headless", OUTPUT])
    else:
        stop("There is no display and no xvfb-run: install xvfb and xauth, then run make demo again.")
    ended = subprocess.run(command, cwd=ROOT, env=screen_environment(), check=False)
    if ended.returncode:
        stop(f"The demo ended with exit code {ended.returncode}: 'napari-skipseg doctor' shows what is wrong.")
    if not has_display():
        tell_files()


def tell_files() -> None:
    """Say where the screenshot and the result files are."""
    folder = ROOT / OUTPUT
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        stop(f"The demo left no files in {folder}.")
    for path in files:
        kind = "screenshot" if path.suffix == ".png" else "result"
        say(f"Demo: {kind} {path}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
