"""What the engine makes of a look into a model: the features of a gate, its attention, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from small_stacks import make_stack

from napari_skipseg.errors import InputError, ModelError
from napari_skipseg.images.intensity.normalize import measure
from napari_skipseg.jobs.client import Engine
from napari_skipseg.jobs.messages import Inspect
from napari_skipseg.models.model import read_model
from napari_skipseg.progress import run_to_end
from napari_skipseg.studies import inspection
from napari_skipseg.studies.inspection import choose_part, cut_part

SLICE = {"Z": slice(1, 2)}


def test_features_and_attention_are_those_of_the_study(engine: Engine, model_folder) -> None:
    from napari_skipseg.studies.gates import gate_features

    stack = make_stack()
    pixels = measure(stack).apply(stack.read((slice(1, 2),)))
    (expected,) = gate_features(read_model(model_folder), pixels)
    found = run_to_end(engine.run(Inspect(stack, str(model_folder), "long skip 1", SLICE)))
    assert isinstance(found.before, np.memmap)
    np.testing.assert_allclose(found.before, expected.before, atol=1e-5)
    np.testing.assert_allclose(found.after, expected.after, atol=1e-5)
    np.testing.assert_allclose(found.attentions[0].data, expected.attentions[0], atol=1e-5)
    assert (found.axes, found.stride, found.before.shape, found.start) == ("YX", 1, (4, 60, 70), {"Z": 1})
    assert found.limits[0] == found.before.min() < found.limits[1] <= found.before.max()
    assert found.clearest == int(expected.after.std(axis=(1, 2)).argmax())
    assert (found.recipe["gate"], found.recipe["model"]) == ("long skip 1", "tiny")


def test_an_image_that_does_not_fit_or_a_gate_that_is_not_there_is_one_sentence(engine: Engine, model_folder) -> None:
    with pytest.raises(ModelError, match=r"tiny has no gate at long skip 9: .* \(gates: long skip 1\)"):
        run_to_end(engine.run(Inspect(make_stack(), str(model_folder), "long skip 9", SLICE)))
    colours = make_stack((60, 70, 3), "YXC")
    with pytest.raises(InputError, match="3 channels and tiny takes one"):
        run_to_end(engine.run(Inspect(colours, str(model_folder), "long skip 1", {})))
    found = run_to_end(engine.run(Inspect(colours, str(model_folder), "long skip 1", {}, channel=2)))
    assert found.before.shape == (4, 60, 70)
    assert not engine.is_busy


def test_a_look_that_is_given_up_leaves_the_engine_free(engine: Engine, model_folder) -> None:
    work = engine.run(Inspect(make_stack(), str(model_folder), "long skip 1", SLICE))
    next(work)
    assert engine.is_busy
    work.close()
    assert not engine.is_busy
    found = run_to_end(engine.run(Inspect(make_stack(), str(model_folder), "long skip 1", SLICE)))
    assert found.before.shape == (4, 60, 70)


def test_the_part_is_all_that_the_model_sees_at_once_or_a_block_on_the_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths, centre = {"T": 5, "C": 2, "Z": 40, "Y": 200, "X": 300}, {"T": 4, "Z": 20, "Y": 150, "X": 290}
    assert choose_part(lengths, "YX", centre) == {
        "T": slice(4, 5),
        "Z": slice(20, 21),
        "Y": slice(0, 200),
        "X": slice(0, 300),
    }
    monkeypatch.setattr(inspection, "MOST_INSPECTED_VOXELS", 128 * 128 * 40)
    assert choose_part(lengths, "ZYX", centre) == {
        "T": slice(4, 5),
        "Z": slice(0, 40),
        "Y": slice(64, 192),
        "X": slice(160, 288),
    }


def test_a_part_has_its_channels_first_and_only_the_axes_seen() -> None:
    stack = make_stack((2, 3, 4, 6, 7), "TZCYX")
    cut = cut_part(stack, {"T": slice(1, 2), "Z": slice(2, 3), "X": slice(0, 5)}, "YX")
    assert cut.space.axes == "CYX"
    np.testing.assert_array_equal(cut.data, stack.data[1, 2, :, :, :5])
    cut = cut_part(stack, {"T": slice(1, 2)}, "ZYX")
    assert cut.space.axes == "CZYX"
    np.testing.assert_array_equal(cut.data, stack.data[1].transpose(1, 0, 2, 3))
