"""Objects of a file of a batch that is stopped while they are found: what is found stays, and is gone on with."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import tifffile
from batch_folders import Gate, results_in, run, settings_for, states, write_image
from scipy import ndimage

from napari_skipseg import find_objects
from napari_skipseg.batch.run import iter_batch
from napari_skipseg.batch.settings import BatchSettings
from napari_skipseg.batch.table import FileChanged
from napari_skipseg.images.files import read_recipe, read_stack
from napari_skipseg.images.formats import FORMAT_ENDINGS, Format
from napari_skipseg.objects import blocks, find_in_blocks
from napari_skipseg.objects.contact_file import FEATURES, ContactClassifier, write_classifier
from napari_skipseg.objects.options import ObjectOptions


@pytest.fixture
def settings(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> BatchSettings:
    """A batch of one image whose objects are found in nine blocks."""
    monkeypatch.setattr(blocks, "BLOCK_SIDE", 16)
    write_image(tmp_path / "in" / "a.tif", 1, slices=6)
    return settings_for(tmp_path / "in", tmp_path / "out", tiny, objects=ObjectOptions("watershed"))


def stop_in_objects(settings: BatchSettings, gate: Gate) -> Path:
    """Stop the batch when four of nine blocks are found; return the folder in which they are kept."""
    gate.shut()
    real, begun = find_in_blocks.find_block_regions, iter(range(100))

    def find_parts(*given: Any) -> Any:
        if next(begun) >= 7:
            gate()
        return real(*given)

    with mock.patch.object(find_in_blocks, "find_block_regions", find_parts):
        work = iter_batch(settings)
        for event in work:
            if isinstance(event, FileChanged) and event.row.message == "finding objects" and event.row.done >= 4:
                work.close()
    (kept,) = Path(settings.output).glob("*/a.objects.unfinished/blocks")
    return kept


def test_objects_go_on_after_the_blocks_that_were_found(
    settings: BatchSettings, gate: Gate, tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = stop_in_objects(settings, gate)
    found = len(list(kept.glob("*.npz")))
    assert found >= 4
    assert not list(kept.parent.parent.glob("a_objects*"))
    looked: list[object] = []
    find_parts = find_in_blocks.find_block_regions
    with monkeypatch.context() as patched:
        patched.setattr(
            find_in_blocks, "find_block_regions", lambda *given: looked.append(given[2]) or find_parts(*given)
        )
        result = run(settings)
    assert states(result) == {"a.tif": "done"}
    assert len(looked) == 9 - found
    assert not kept.parent.exists()
    undisturbed = run(settings_for(tmp_path / "in", tmp_path / "whole", tiny, objects=ObjectOptions("watershed")))
    assert results_in(result.folder) == results_in(undisturbed.folder)


def test_objects_of_an_image_that_changed_meanwhile_begin_anew(
    settings: BatchSettings, gate: Gate, tmp_path: Path, tiny: Path
) -> None:
    stop_in_objects(settings, gate)
    write_image(tmp_path / "in" / "a.tif", 2, slices=6)
    result = run(settings)
    undisturbed = run(settings_for(tmp_path / "in", tmp_path / "whole", tiny, objects=ObjectOptions("watershed")))
    assert states(result) == {"a.tif": "done"}
    assert results_in(result.folder) == results_in(undisturbed.folder)


def test_a_stored_classifier_decides_in_a_batch_and_its_hash_is_in_the_recipe(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK_SIDE", 16)
    write_image(tmp_path / "in" / "a.tif", 1, slices=6)
    weights = [0.0] * (len(FEATURES) - 1) + [1.0]  # "different objects", whatever the contact is
    contacts = str(write_classifier(tmp_path / "contacts.json", ContactClassifier(tuple(weights))))
    how: dict[str, Any] = {"threshold": 0.1, "seeds": "probability", "seed_distance": 30}
    options = ObjectOptions("watershed", contacts=contacts, **how)
    result = run(settings_for(tmp_path / "in", tmp_path / "out", tiny, objects=options))
    assert states(result) == {"a.tif": "done"}
    labels = np.asarray(read_stack(result.folder / "a_objects.tif").data[...])
    probability = result.folder / "a_probability.tif"
    np.testing.assert_array_equal(labels, find_objects(probability, method="watershed", contacts=contacts, **how))
    assert labels.max() > find_objects(probability, method="watershed", **how).max()
    recipe = read_recipe(result.folder / "a_objects.tif")
    assert recipe is not None
    assert recipe["objects"]["contacts"] == options.contacts
    assert options.contacts.startswith(f"{contacts}@sha256:")


@pytest.mark.parametrize("form", ["tiff", "ome-zarr"])
def test_a_black_frame_and_a_lost_slice_are_no_cells_and_the_row_says_so(
    form: Format, tmp_path: Path, tiny: Path
) -> None:
    random = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(random.normal(size=(4, 90, 110)), (0, 4, 4))
    tissue = (128 + 35 * smooth / smooth.std() + random.normal(0, 8, smooth.shape)).clip(40, 215).astype(np.uint8)
    values = np.pad(tissue, ((0, 0), (30, 20), (20, 40)))
    values[2] = 0
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in" / "a.tif", values, photometric="minisblack", metadata={"axes": "ZYX"})
    cells = ObjectOptions("cells", planes="slices")
    result = run(settings_for(tmp_path / "in", tmp_path / "out", tiny, objects=cells, form=form))
    (file,) = result.folder.rglob(f"a_objects{FORMAT_ENDINGS[form]}")
    found = read_stack(file).data[...]
    np.testing.assert_array_equal(found > 0, values > 0)
    (row,) = result.rows
    assert "no cells" in row.note
