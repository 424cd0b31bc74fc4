"""Sliders of the thresholds of a model's classes."""

from napari_skipseg.widgets.segment.fields import ThresholdSliders


def test_each_class_has_a_slider_with_the_models_threshold(qtbot):
    field = ThresholdSliders()
    qtbot.addWidget(field)
    field.offer({"membrane": 0.5, "mitochondrion": 0.31})
    assert field.values() == {"membrane": 0.5, "mitochondrion": 0.31}
    assert list(field.labels) == ["membrane", "mitochondrion"]
    moved = []
    field.moved.connect(lambda: moved.append(field.values()))
    field.sliders["mitochondrion"].setValue(0.2)
    assert moved == [{"membrane": 0.5, "mitochondrion": 0.2}]


def test_another_model_brings_thresholds_of_its_own(qtbot):
    field = ThresholdSliders()
    qtbot.addWidget(field)
    field.offer({"membrane": 0.5})
    assert field.labels == {}
    field.setValue(0.8)
    field.offer({"membrane": 0.5, "mitochondrion": 0.31})
    assert field.values() == {"membrane": 0.5, "mitochondrion": 0.31}
    assert "own: 0.31" in field.sliders["mitochondrion"].toolTip()
