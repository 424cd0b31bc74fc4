"""A model's description as a value and as text."""

import pytest

from napari_skipseg.errors import ModelError
from napari_skipseg.models.description import (
    Card,
    ClassLabel,
    ModelDescription,
    TrainingRecord,
    card_as_text,
    description_from_json,
    description_to_json,
)
from napari_skipseg.networks.specs import UNetSpec

BARE = ModelDescription("bare", UNetSpec(), (ClassLabel("membrane", 0),), 32, "ab12")
FULL = ModelDescription(
    "full",
    UNetSpec(out_channels=3, dimensions=3, skip="st"),
    (ClassLabel("membrane", 255), ClassLabel("mitochondrion", 2)),
    16,
    "cd34",
    (8.0, 4.5, 4.5),
    "nm",
    card=Card(
        "finds both",
        "a larva",
        "cite them",
        ("get data", "train it"),
        {"V_rand": 0.97912},
        "slices 20-24",
        "CC-BY-NC-4.0",
        (4.0, 10.0),
        "other animals",
    ),
    training=TrainingRecord({}, {"training loss": ((10, 1.5), (500, -0.25))}, {}, "em-membrane"),
)


@pytest.mark.parametrize("description", [BARE, FULL], ids=lambda d: d.name)
def test_a_description_survives_json(description):
    assert description_from_json(description_to_json(description), "here") == description


def test_the_card_says_what_a_user_must_know():
    lines = card_as_text(FULL).splitlines()
    assert [line.split("  ")[0] for line in lines if not line.startswith(" ")] == [
        "Model", "Summary", "Network", "Classes", "Thresholds", "Input", "Voxel size", "Tried at",
        "Trained on", "Licence", "Terms", "Scores", "Scores on", "Not tried on", "Commands", "Started from", "Margin",
        "SHA-256", "Curves",
    ]  # fmt: skip
    text = "\n".join(lines)
    assert "3D unet, skip st" in text
    assert "1 = membrane, 2 = mitochondrion" in text
    assert "CC-BY-NC-4.0 (non-commercial)" in text
    assert "8 × 4.5 × 4.5 nm (z, y, x)" in text
    assert "V_rand 0.9791" in text
    assert "4 to 10 nm" in text
    assert "training loss 1.500 → -0.250 (step 500)" in text


def test_the_values_of_a_card_stand_in_one_column():
    lines = card_as_text(FULL).splitlines()
    assert {line.find(line[14:].strip()) for line in lines} == {14}


def test_what_is_not_known_is_not_mentioned():
    text = card_as_text(BARE)
    assert not any(word in text for word in ("Licence", "Terms", "Scores", "Curves", "Commands", "Started", "Summary"))
    assert text.endswith("ab12")


def test_class_names_are_in_the_order_of_the_labels():
    assert FULL.class_names == ("membrane", "mitochondrion")


@pytest.mark.parametrize(("channels", "classes"), [(1, 2), (2, 1), (3, 0), (3, 3)])
def test_classes_and_channels_must_fit(channels, classes):
    labels = tuple(ClassLabel(f"class {n}", n) for n in range(classes))
    with pytest.raises(ModelError, match=f"names {classes} classes but its network returns {channels} channels"):
        ModelDescription("m", UNetSpec(out_channels=channels), labels, 0, "")
