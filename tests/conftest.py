"""Fixtures for all tests."""

import gc
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from napari_skipseg import durable

# Torch reads it when it is imported. Networks as small as those of the tests are fastest on one thread, and give the
# same bytes in every process.
os.environ["OMP_NUM_THREADS"] = "1"

# Searching all that torch, numba and napari hold for garbage, again and again, took 7 to 9 % of the time.
gc.set_threshold(20_000, 10, 10)


@pytest.fixture(scope="session", autouse=True)
def _own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is kept goes to folders of the tests, not to those of the user; child processes inherit them."""
    with pytest.MonkeyPatch.context() as patch:
        for kind in ("CACHE", "SAMPLES", "CORRECTIONS"):
            patch.setenv(f"NAPARI_SKIPSEG_{kind}", str(tmp_path_factory.mktemp(kind.lower())))
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    """Files of the tests need not outlive a power cut: a third of a run's time is waiting until they would.

    What is synced, and when, the tests of durability see by their own patches. Child processes do wait.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda number: None)
        patch.setattr(durable, "_syncfs", lambda: None)
        yield


@pytest.fixture(scope="module", autouse=True)
def _nothing_old_is_searched_for_garbage() -> None:
    """What is there when a file begins is set aside for good."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real EM data: SKIPSEG_DATA, else ../shared/data beside the checkout.

    Without it a test is skipped with that reason; under CI it fails instead.
    """
    named = os.environ.get("SKIPSEG_DATA")
    folder = Path(named) if named else Path(__file__).parents[1].parent / "shared" / "data"
    if folder.is_dir():
        return folder
    reason = f"the real EM data is not there: {folder} (set SKIPSEG_DATA)"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run the command line in this process; return its exit code, and what it printed to both outputs."""
    from command_line import runner

    return runner(monkeypatch, capsys)


@pytest.fixture
def only_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks run in torch, which is ready sooner than OpenVINO."""
    for module in ("backends.choose", "recipes.repeat"):
        monkeypatch.setattr(f"napari_skipseg.inference.{module}.has_openvino", lambda: False)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without a screen Qt aborts the whole process: tests in a window are skipped there, but under CI they fail."""
    screenless = sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    if screenless and "QT_QPA_PLATFORM" not in os.environ and not os.environ.get("CI"):
        for item in items:
            if item.get_closest_marker("gui"):
                item.add_marker(pytest.mark.skip(reason="no screen: run it under xvfb-run, as make test does"))
