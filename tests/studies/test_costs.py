"""Costs are measured: memory byte for byte as counted by hand, parameters as torch counts them."""

import csv
import json
import re
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from napari_skipseg.cli.study import _lengths, app
from napari_skipseg.errors import FileError, SpecError
from napari_skipseg.inference.activations import StorageMeter
from napari_skipseg.networks.build import build, count_parameters
from napari_skipseg.networks.specs import UNetSpec
from napari_skipseg.progress import run_to_end
from napari_skipseg.studies import costs
from napari_skipseg.studies.costs import (
    CostSettings,
    cost_panels,
    cost_summary,
    iter_costs,
    measure_inference,
    measure_training,
)

KIB = 1024
SMALL = CostSettings(("unet",), ("org", "sat"), (2,), {2: (16, 16)})


class Output(NamedTuple):
    logits: Tensor


class TwoConvolutions(nn.Module):
    """1 -> 4 -> 2 channels; at 16 × 16 pixels of 4 bytes a channel is 1 KiB."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, image: Tensor) -> Output:
        return Output(self.second(self.first(image)))


def test_a_forward_pass_peaks_where_two_layers_meet():
    assert measure_inference(TwoConvolutions(), torch.zeros(1, 1, 16, 16)).peak == (4 + 2) * KIB


def test_training_keeps_what_the_way_back_needs():
    network = TwoConvolutions()
    cost = measure_training(network, torch.zeros(1, 1, 16, 16))
    parameters = 4 * sum(parameter.numel() for parameter in network.parameters())
    assert cost.kept == (4 + 2) * KIB
    # on the way back: the gradients of the output and of the 4 channels, and of the parameters as they come
    assert cost.kept + 4 * KIB < cost.peak <= cost.kept + (2 + 4) * KIB + parameters + 64


def test_views_and_what_is_changed_in_place_take_no_memory():
    image = torch.zeros(256)
    with StorageMeter() as meter:
        doubled = image * 2
        doubled.view(16, 16)[0].add_(1)
        image.relu_()
        image.detach()
        assert (meter.live, meter.peak) == (KIB, KIB)
        del doubled
        assert (meter.live, meter.peak) == (0, KIB)
        tripled = torch.cat([image, image, image])
        assert (meter.live, meter.peak) == (3 * KIB, 3 * KIB)
    del tripled


def test_one_map_in_place_of_all_channels_takes_less_memory():
    org, sat = (
        measure_inference(build(UNetSpec(widths=(16, 16), skip=skip)), torch.zeros(1, 1, 32, 32)).peak
        for skip in ("org", "sat")
    )
    assert sat < org


def test_rows_tell_parameters_saving_and_costs(tmp_path):
    result = run_to_end(
        iter_costs(CostSettings(("unet",), ("org", "sat"), (2,), {2: (16, 16)}, training=True), tmp_path)
    )
    org, sat = result.rows
    counts = [count_parameters(UNetSpec(skip=skip)) for skip in ("org", "sat")]
    assert [org["trainable_parameters"], sat["trainable_parameters"]] == counts
    assert (org["saving_percent"], sat["saving_percent"]) == (0.0, round(100 * (1 - counts[1] / counts[0]), 2))
    assert [row["state"] for row in result.rows] == ["measured", "measured"]
    assert all(0 < row["kept_mib"] <= row["training_mib"] for row in result.rows)
    assert all(row["forward_seconds"] > 0 for row in result.rows)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["costs.csv", "costs.png"]
    assert cost_summary(result.rows)[1]["saving"] == f"{sat['saving_percent']:.2f}"


def test_a_network_that_fails_is_a_row_and_the_others_go_on(tmp_path, monkeypatch):
    measure = costs.measure_inference

    def too_much(network, image):
        if network.spec.skip == "org":
            raise RuntimeError("[enforce fail] not enough memory: you tried to allocate 9 bytes.\nmore")
        return measure(network, image)

    monkeypatch.setattr(costs, "measure_inference", too_much)
    org, sat = run_to_end(iter_costs(SMALL, tmp_path)).rows
    assert org["state"] == "failed: [enforce fail] not enough memory: you tried to allocate 9 bytes."
    assert (org["trainable_parameters"] or 0) > 0
    assert org["forward_mib"] is None
    assert sat["state"] == "measured"
    assert (tmp_path / "costs.png").exists()


def test_a_stopped_run_keeps_its_rows_and_measures_none_of_them_again(tmp_path, monkeypatch):
    work = iter_costs(SMALL, tmp_path)
    next(work)
    next(work)
    work.close()
    assert [file.name for file in tmp_path.iterdir()] == ["costs.csv"]
    measured = []
    measure = costs.measure_inference
    monkeypatch.setattr(costs, "measure_inference", lambda n, i: measured.append(n.spec.skip) or measure(n, i))
    rows = run_to_end(iter_costs(SMALL, tmp_path)).rows
    assert measured == ["sat"]
    assert [row["skip"] for row in rows] == ["org", "sat"]
    with (tmp_path / "costs.csv").open(newline="", encoding="utf-8-sig") as handle:
        assert [row["skip"] for row in csv.DictReader(handle)] == ["org", "sat"]
    run_to_end(iter_costs(CostSettings(("unet",), ("org",), (2,), {2: (24, 16)}), tmp_path))
    assert measured == ["sat", "org"]


def test_a_damaged_table_is_measured_anew(tmp_path):
    (tmp_path / "costs.csv").write_bytes(b"network,skip\nunet\n\xff,\x00,3\n")
    assert [row["state"] for row in run_to_end(iter_costs(SMALL, tmp_path)).rows] == ["measured"] * 2


def test_bars_are_percent_of_org_with_the_number_above():
    rows = [costs.CostRow("a", 2, "org", 200), costs.CostRow("a", 2, "sat", 150), costs.CostRow("b", 2, "sat", None)]
    (panel,) = cost_panels(rows)
    assert panel.groups == ("a", "b")
    assert panel.series == {"org": (100.0, None), "sat": (75.0, None)}
    assert panel.notes["sat"] == ("150", "failed")


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"networks": ("vgg",)}, "'vgg' is no network: choose among unet"),
        ({"skips": ("gate",)}, "'gate' is no skip: choose among none, sum, org"),
        ({"dimensions": (4,)}, "2 or 3 dimensions, not 4"),
        ({"sizes": {2: (16,)}}, "A size in 2D is 2 lengths"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_one_sentence(settings, fault):
    with pytest.raises(SpecError, match=re.escape(fault)):
        CostSettings(**settings)


def test_a_size_is_two_or_three_lengths():
    assert (_lengths("256,128"), _lengths("8,16,32")) == ((256, 128), (8, 16, 32))
    for text in ("256", "a,b", "1,2,3,4", ""):
        with pytest.raises(SpecError, match="is no size"):
            _lengths(text)


def test_a_folder_that_cannot_be_made_is_named_before_anything_is_measured(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="Nothing can be written to"):
        next(iter_costs(SMALL, tmp_path / "file" / "out"))


def test_the_command_prints_a_row_per_network_and_the_files(tmp_path, capsys):
    arguments = ["costs", str(tmp_path), "--network", "unet", "--skip", "org", "--skip", "sat", "--size", "16,16"]
    app([*arguments, "--dimensions", "2"], standalone_mode=False)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in lines if line.startswith("unet 2D")] == ["org", "sat"]
    assert lines[-2:] == [str(tmp_path / "costs.csv"), str(tmp_path / "costs.png")]
    app([*arguments, "--dimensions", "2", "--json"], standalone_mode=False)
    assert [row["size"] for row in json.loads(capsys.readouterr().out)] == ["16×16", "16×16"]
