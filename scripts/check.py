"""Run every check and test: style, types, arrows, manifest, documentation, workflows, and last pytest.

--slow: with the slow tests. --no-tests: only the checks. --no-checks: only the tests.
--no-data: without the tests that need the real EM data.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from machine import ROOT, has_display, has_virtual_screen, on_screen, program, say, screen_environment, stop


def files(pattern: str) -> list[str]:
    """Return the files of the checkout that match a pattern."""
    return [str(file.relative_to(ROOT)) for file in sorted(ROOT.glob(pattern))]


SCHEMA = ["check-jsonschema", "--builtin-schema"]
SITE = "build/site"
BINARY = (
    ("commands of workflows", ["actionlint"]),
    ("container", ["hadolint", "packaging/Containerfile"]),
)
"""Checks by programs in binary packages that are not there for every system."""
if sys.platform != "linux" or platform.machine() != "x86_64":
    BINARY = ()
QUICK = (
    ("style", ["ruff", "check", "--output-format=concise", "."]),
    ("format", ["ruff", "format", "--check", "."]),
    ("types", ["mypy"]),
    ("arrows", ["lint-imports"]),
    ("manifest", ["npe2", "validate", "src/napari_skipseg/napari.yaml"]),
    ("documentation", ["mkdocs", "build", "--strict", "--quiet", "--site-dir", SITE]),
    ("security of workflows", ["zizmor", "--offline", "--no-progress", "--quiet", ".github"]),
    *BINARY,
    ("workflows", [*SCHEMA, "vendor.github-workflows", *files(".github/workflows/*.yml")]),
    ("issue forms", [*SCHEMA, "vendor.github-issue-forms", *files(".github/ISSUE_TEMPLATE/[!c]*.yml")]),
    ("issue settings", [*SCHEMA, "vendor.github-issue-config", ".github/ISSUE_TEMPLATE/config.yml"]),
    ("dependabot", [*SCHEMA, "vendor.dependabot", ".github/dependabot.yml"]),
    ("citation", [*SCHEMA, "vendor.citation-file-format", "CITATION.cff"]),
)
CHECK_SECONDS = 300
SHOWN_LINES = 40
CORES = os.cpu_count() or 1
MOST_WORKERS = 8
NO_TESTS = 5
"""Exit code of pytest if no test was chosen, as for a file with tests of windows only and no screen."""
WINDOWS = "tests/widgets"
FOR_WINDOWS_ONLY = ("napari", "napari-plugin-engine", "npe2", "zarr")
"""Plugins of pytest that at most tests of windows need; they import napari and Qt into every process, in 5 s."""


def main(left_out: list[str], has_checks: bool, has_tests: bool) -> None:
    """Run all of it, even after a failure; end with one sentence that names what failed."""
    # beside the tests, as the longest check, of types, keeps one core busy for a minute
    with ThreadPoolExecutor(CORES) as threads:
        checks = {name: threads.submit(passes, name, command) for name, command in (QUICK if has_checks else ())}
        has_window = has_display() or has_virtual_screen()
        if has_tests and not has_window:
            say("Tests: no display and no xvfb-run here, so those in a window cannot run")
        are_tests_right = not has_tests or tests_pass(left_out)
        failed = [name for name, check in checks.items() if not check.result()]
    failed += ["windows (install the packages xvfb and xauth)"] if has_tests and not has_window else []
    failed += [] if are_tests_right else ["tests"]
    if failed:
        stop(f"Failed: {', '.join(failed)}. The lines above say why; 'make format' mends style and format.")


def passes(name: str, command: list[str]) -> bool:
    """Print whether a command succeeds, in one line; if it does not, also the end of its output."""
    began = time.monotonic()
    try:
        ended = subprocess.run(
            [program(command[0]), *command[1:]],
            cwd=ROOT,
            env=screen_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=CHECK_SECONDS,
            check=False,
        )
        failure = "" if ended.returncode == 0 else ended.stdout.rstrip() or f"exit code {ended.returncode}"
    except subprocess.TimeoutExpired:
        failure = f"It did not end within {CHECK_SECONDS} s."
    except OSError as error:
        failure = str(error)
    end = f"Check: {name} {'failed' if failure else 'passed'} ({time.monotonic() - began:.1f} s)"
    say("\n".join([*failure.splitlines()[-SHOWN_LINES:], end]))
    return not failure


def tests_pass(left_out: list[str]) -> bool:
    """Run all tests at once: those of windows in processes with a screen each, all others in one for each core.

    left_out: the marks of tests that do not run.

    Two tests that type on one screen would take each other's focus.
    """
    if not (has_display() or has_virtual_screen()):
        left_out = [*left_out, "gui"]
    marks = " and ".join(f"not {mark}" for mark in left_out)
    say(f"Tests: pytest -m '{marks}', those of windows and all others at once; what those of windows say comes last")
    pytest = [program("python"), "-m", "pytest", "--durations=20", "-m", marks, "-p", "no:cacheprovider"]
    others = [f"--ignore={WINDOWS}", "-n", str(min(CORES, MOST_WORKERS)), "--dist", "loadfile"]
    others += [f"-pno:{plugin}" for plugin in FOR_WINDOWS_ONLY]
    environment = screen_environment()
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # else each of the many processes compiles the sources again
    with ExitStack() as stack:
        windows = []
        for files in window_tests(1 if has_display() else 2):
            output = stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace"))
            started = subprocess.Popen(
                on_screen([*pytest, *files]),
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            windows.append((started, output))
        try:
            ended = subprocess.run(
                on_screen([*pytest, *others]), cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, check=False
            )
            passed = [started.wait() in (0, NO_TESTS) for started, _ in windows]
        finally:
            for started, output in windows:
                started.terminate()
                output.seek(0)
                say(output.read())
    return ended.returncode == 0 and all(passed)


def window_tests(count: int) -> list[list[str]]:
    """Return the test files of windows in `count` parts of about the same length."""
    parts: list[list[Path]] = [[] for _ in range(count)]
    files = sorted((ROOT / WINDOWS).glob("test_*.py"), key=lambda file: file.stat().st_size, reverse=True)
    for file in files:
        min(parts, key=lambda part: sum(each.stat().st_size for each in part)).append(file)
    return [[str(file.relative_to(ROOT)) for file in sorted(part)] for part in parts]


if __name__ == "__main__":
    try:
        flags = sys.argv[1:]
        left_out = [*(["data"] if "--no-data" in flags else []), *([] if "--slow" in flags else ["slow"]), "gpu"]
        main(left_out, has_checks="--no-checks" not in flags, has_tests="--no-tests" not in flags)
    except KeyboardInterrupt:
        sys.exit(130)
