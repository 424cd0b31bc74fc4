"""The weight-update map: what a training recorded, as table, shares and picture."""

import csv
import json

import matplotlib.image
import numpy as np
import pytest
from typer.testing import CliRunner

from napari_skipseg.cli import app
from napari_skipseg.errors import InputError, ModelError
from napari_skipseg.models.description import ClassLabel, ModelDescription, TrainingRecord, description_to_json
from napari_skipseg.networks.specs import ResidualFCNSpec
from napari_skipseg.progress import run_to_end
from napari_skipseg.studies.updates import draw_updates, iter_updates, read_updates

# Seven convolutions in two epochs: 2 at the input, 3 at the centre, 2 at the output.
SEVEN = {f"layer{n}": row for n, row in enumerate([(3, 1), (1, 1), (1, 1), (2, 1), (1, 2), (0, 1), (2, 3)])}


def described(name, updates):
    record = TrainingRecord(updates={layer: tuple(map(float, row)) for layer, row in updates.items()})
    return ModelDescription(name, ResidualFCNSpec(), (ClassLabel("membrane", 0),), 0, "", training=record)


@pytest.fixture
def save(tmp_path):
    def write(name, updates):
        folder = tmp_path / "models" / name
        folder.mkdir(parents=True)
        (folder / "model.json").write_text(description_to_json(described(name, updates)))
        return folder

    return write


def rows_of(path):
    with path.open(newline="", encoding="utf-8-sig") as handle:
        return list(csv.DictReader(handle))


@pytest.mark.parametrize(
    ("layers", "edges"), [(1, (0, 1)), (2, (1, 1)), (3, (1, 2)), (4, (1, 3)), (5, (2, 3)), (7, (2, 5))]
)
def test_the_outer_thirds_have_as_many_layers_each(layers, edges):
    assert read_updates(described("some", {f"layer{n}": (1,) for n in range(layers)})).edges == edges


def test_shares_of_the_thirds_add_up_to_all_updates_of_an_epoch():
    shares = read_updates(described("seven", SEVEN)).shares
    assert shares == pytest.approx(np.array([[0.4, 0.2], [0.4, 0.4], [0.2, 0.4]]))


def test_where_nothing_moved_there_are_no_shares(save, tmp_path):
    result = run_to_end(iter_updates([save("still", {"first": (0, 0), "last": (0, 3)})], tmp_path / "out"))
    first, last = result.rows
    assert (first["input_third"], first["centre_third"], first["output_third"]) == (None, None, None)
    assert (last["input_third"], last["centre_third"], last["output_third"]) == (0, 0, 1)


def test_the_table_holds_the_record_from_input_to_output(save, tmp_path):
    result = run_to_end(iter_updates([save("seven", SEVEN)], tmp_path / "out"))
    assert result.files == [tmp_path / "out" / "seven_updates.csv", tmp_path / "out" / "updates.png"]
    rows = rows_of(result.files[0])
    assert list(rows[0]) == ["layer", "depth", "epoch_1", "epoch_2"]
    assert {row["layer"]: (float(row["epoch_1"]), float(row["epoch_2"])) for row in rows} == SEVEN
    assert [int(row["depth"]) for row in rows] == [1, 2, 3, 4, 5, 6, 7]


def test_the_rows_name_the_thirds_shares_at_the_first_and_last_epoch(save, tmp_path):
    result = run_to_end(iter_updates([save("seven", SEVEN)], tmp_path / "out"))
    thirds = {"input_third": 0.4, "centre_third": 0.4, "output_third": 0.2}
    assert result.rows[0] == {"model": "seven", "layers": 7, "epoch": 1, "mean_update": 1.4286} | thirds
    assert result.rows[1]["epoch"] == 2
    assert result.rows[1]["output_third"] == 0.4


def test_a_single_epoch_has_a_single_row(save, tmp_path):
    result = run_to_end(iter_updates([save("once", {"first": (1,), "last": (3,)})], tmp_path / "out"))
    assert [row["epoch"] for row in result.rows] == [1]


def test_the_picture_has_one_panel_per_model_and_one_scale(save, tmp_path):
    maps = [read_updates(described("seven", SEVEN)), read_updates(described("weak", {"a": (0.5, 0.25), "b": (1, 1)}))]
    panels = [axis for axis in draw_updates(maps).axes if axis.get_title()]
    assert [axis.get_title().split("\n")[0] for axis in panels] == ["seven", "weak"]
    assert np.array_equal(panels[0].images[0].get_array(), maps[0].values)
    assert panels[0].images[0].get_extent() == [0.5, 2.5, 7.5, 0.5]
    assert [axis.images[0].norm.vmax for axis in panels] == [3, 3]
    own = [axis for axis in draw_updates(maps, own_scale=True).axes if axis.get_title()]
    assert [axis.images[0].norm.vmax for axis in own] == [3, 1]


def test_the_written_picture_shows_something(save, tmp_path):
    folders = [save(f"model{n}", SEVEN) for n in range(5)]
    run_to_end(iter_updates(folders, tmp_path / "out"))
    picture = matplotlib.image.imread(tmp_path / "out" / "updates.png")
    assert picture.shape[:2] == pytest.approx((9.2 * 110, 14.4 * 110), abs=1)
    assert len(np.unique(picture[..., :3].reshape(-1, 3), axis=0)) > 50


def test_a_model_without_a_record_is_told_how_to_get_one(save, tmp_path):
    folders = [save("seven", SEVEN), save("bare", {})]
    with pytest.raises(ModelError, match="'bare' has no record of its weight updates: train it with --epoch N"):
        run_to_end(iter_updates(folders, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_model_named_twice_and_none_at_all_are_refused(save, tmp_path):
    folder = save("seven", SEVEN)
    with pytest.raises(InputError, match="'seven' is named 2 times"):
        run_to_end(iter_updates([folder, folder], tmp_path / "out"))
    with pytest.raises(InputError, match="There is no model"):
        run_to_end(iter_updates([], tmp_path / "out"))


def test_the_command_takes_several_models(save, tmp_path):
    out = tmp_path / "out"
    models = [str(save(name, SEVEN)) for name in ("one", "two")]
    ended = CliRunner().invoke(app, ["study", "updates", *models, str(out), "--json"], catch_exceptions=False)
    assert ended.exit_code == 0
    assert [(row["model"], row["epoch"]) for row in json.loads(ended.stdout)] == [
        ("one", 1), ("one", 2), ("two", 1), ("two", 2),
    ]  # fmt: skip
    assert sorted(path.name for path in out.iterdir()) == ["one_updates.csv", "two_updates.csv", "updates.png"]
