"""An option is one field: checks, flags and forms derive from what is written beside it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

import pytest
import typer
from typer.testing import CliRunner

from napari_skipseg.batch.settings import BatchSettings
from napari_skipseg.cli.options import Flags, add_flags
from napari_skipseg.errors import InputError
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.option_fields import Option, check_options, option_fields
from napari_skipseg.training.settings import FinetuneSettings, FitSettings, TrainSettings


@dataclass(frozen=True)
class Options:
    speed: Annotated[float, Option("Speed", "How fast it goes.", above=0, most=10)] = 1.0
    count: Annotated[int, Option("Count", "How many.", least=2)] = 2
    colour: Annotated[Literal["red", "blue"], Option("Colour", "What it looks like.")] = "red"
    rate: Annotated[float | None, Option("Rate", "How often.", least=0, below=1)] = None
    sides: Annotated[tuple[int, ...], Option("Sides", "How long.")] = (3, 4)
    bright: Annotated[bool, Option("Bright", "Let it shine.")] = False
    plain: str = "no option"

    def __post_init__(self) -> None:
        check_options(self, InputError)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"speed": 0.0}, "The speed must be more than 0 and 10 or less, not 0.0."),
        ({"speed": 10.5}, "not 10.5"),
        ({"speed": float("nan")}, "not nan"),
        ({"count": 1}, "The count must be 2 or more, not 1."),
        ({"colour": "green"}, "The colour cannot be 'green': choose one of red, blue."),
        ({"rate": 1.0}, "The rate must be 0 or more and less than 1, not 1.0."),
    ],
)
def test_a_value_out_of_range_is_refused_in_one_sentence(values: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        Options(**values)
    assert words in str(caught.value)


def test_values_in_range_and_none_are_taken() -> None:
    assert Options(10.0, 2, "blue", None).speed == 10.0
    assert Options(rate=0.0).rate == 0.0


def test_options_are_the_annotated_fields_in_their_order() -> None:
    assert list(option_fields(Options)) == ["speed", "count", "colour", "rate", "sides", "bright"]
    rate, sides = option_fields(Options)["rate"], option_fields(Options)["sides"]
    assert (rate.kind, rate.is_optional, rate.flag) == (float, True, "--rate")
    assert (sides.kind, sides.repeats, sides.default) == (int, True, (3, 4))


def run(*flags: str, **how: Any) -> tuple[int, str, dict[str, Any]]:
    """Return exit code, output and what was given, of a command with the flags of `Options`."""
    told: dict[str, Any] = {}
    group = Flags(Options, **how)

    def command(**values: Any) -> None:
        told.update(group.given(values))

    add_flags(command, group.annotations)
    app = typer.Typer(rich_markup_mode=None)
    app.command()(command)
    done = CliRunner().invoke(app, list(flags))
    return done.exit_code, done.output, told


def test_flags_give_what_was_named_and_leave_the_rest_to_the_fields() -> None:
    assert run() == (0, "", {})
    assert run("--speed", "2", "--bright", "--sides", "5,6")[2] == {"speed": 2.0, "bright": True, "sides": "5,6"}


def test_flags_can_be_left_out_renamed_and_given_another_default() -> None:
    assert run("--speed", "2", leave_out=("speed",))[0] == 2
    assert run("--how-many", "7", names={"count": "how_many"})[2] == {"count": 7}
    assert run(defaults={"bright": True})[2] == {"bright": True}
    assert run("--no-bright", defaults={"bright": True})[2] == {"bright": False}


def test_the_help_says_what_the_field_says_with_choices_and_default() -> None:
    words = " ".join(run("--help")[1].split())
    assert "--colour" in words
    assert "What it looks like. One of red, blue. Default: red." in words
    assert "How long. Default: 3,4." in words


@dataclass(frozen=True)
class Invented(SegmentOptions):
    sharpen: Annotated[float, Option("Sharpen", "Sharpen the image first.", least=0, most=2, step=0.5)] = 0.0


def test_a_new_option_of_a_segmentation_reaches_the_command_line_by_its_field_alone() -> None:
    flags = Flags(Invented)
    assert flags.given({"sharpen": 1.5}) == {"sharpen": 1.5}
    assert "sharpen" in flags.annotations
    with pytest.raises(InputError, match="sharpen must be between 0 and 2"):
        Invented(sharpen=3)


@pytest.mark.parametrize("settings", [SegmentOptions, ObjectOptions, BatchSettings, TrainSettings, FinetuneSettings])
def test_every_option_is_explained_in_sentences_and_has_a_possible_default(settings: type) -> None:
    found = option_fields(settings)
    assert found
    for each in found.values():
        assert each.option.title[0].isupper()
        assert each.option.help.endswith((".", "…"))
        assert each.fault(each.default) == ""


def test_training_and_fine_tuning_share_what_they_share() -> None:
    shared = {each.name for each in fields(FitSettings)}
    assert {"name", "images", "labels", "classes", "loss", "batch", "seed", "precision", "padding"} <= shared
    for settings in (TrainSettings, FinetuneSettings):
        assert shared < {each.name for each in fields(settings)}
