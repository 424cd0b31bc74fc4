"""The samples of Open Sample are made once, and are the same from disk."""

from pathlib import Path

import numpy as np
import pytest

from napari_skipseg.images.synthetic import kept
from napari_skipseg.images.synthetic.sample import SyntheticSample, make_isotropic_sample, make_sample


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache, and two samples that take no seconds."""
    monkeypatch.setenv(kept.SAMPLES_VARIABLE, str(tmp_path / "samples"))
    monkeypatch.setattr(kept, "make_sample", lambda: make_sample((2, 64, 64)))
    monkeypatch.setattr(kept, "make_isotropic_sample", lambda: make_isotropic_sample((4, 64, 64)))
    return tmp_path / "samples"


def assert_same(found: SyntheticSample, made: SyntheticSample) -> None:
    assert (found.stack.space, found.stack.name) == (made.stack.space, made.stack.name)
    np.testing.assert_array_equal(found.stack.data, made.stack.data)
    np.testing.assert_array_equal(found.membrane, made.membrane)
    np.testing.assert_array_equal(found.mitochondria, made.mitochondria)


def refuse() -> SyntheticSample:
    raise AssertionError("the sample is made anew")


def test_both_samples_come_from_disk_the_second_time(folder: Path, monkeypatch) -> None:
    kept.open_sample(False)
    kept.open_sample(True)
    for name in ("make_sample", "make_isotropic_sample"):
        monkeypatch.setattr(kept, name, refuse)
    assert_same(kept.open_sample(False), make_sample((2, 64, 64)))
    assert_same(kept.open_sample(True), make_isotropic_sample((4, 64, 64)))


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "other"])
def test_a_damaged_one_is_made_anew_and_replaced(folder: Path, damage: str) -> None:
    kept.open_sample(False)
    (file,) = folder.iterdir()
    content = file.read_bytes()
    middle = len(content) // 2
    flipped = bytearray(content)
    flipped[middle] ^= 255
    damaged = {"cut": content[:middle], "empty": b"", "flipped": bytes(flipped), "other": b"no archive"}
    file.write_bytes(damaged[damage])
    assert_same(kept.open_sample(False), make_sample((2, 64, 64)))
    assert file.read_bytes() == content


def test_that_of_another_version_is_removed(folder: Path, monkeypatch) -> None:
    kept.open_sample(False)
    (before,) = folder.iterdir()
    monkeypatch.setattr(kept, "_version", lambda: "newer")
    kept.open_sample(False)
    assert [file.name for file in folder.iterdir()] == ["sections-newer.npz"]
    assert before.name != "sections-newer.npz"


def test_a_cache_that_cannot_be_written_is_no_error(folder: Path) -> None:
    folder.write_text("a file in its place")
    assert_same(kept.open_sample(True), make_isotropic_sample((4, 64, 64)))
    assert folder.read_text() == "a file in its place"
