"""Accuracy on ISBI 2012: every variant with the same budget on slices 0-19, scored on 20-24, beside MONAI's networks.

    python benchmarks/accuracy.py ISBI_FOLDER OUT [--only NAME ...] [--seeds 0 1] [--steps 600] [--threads 1]
    python benchmarks/accuracy.py --table OUT

ISBI_FOLDER contains train-volume and train-labels (TIFF). Every run has the same samples, augmentation, loss and number
of steps, unless its name says otherwise, and keeps its weights of the least held-out loss, as Drozdzal et al. 2016 do;
so all scores are optimistic in the same way. A run writes OUT/NAME-SEED.json when it is done and is then skipped; a
killed one resumes from its checkpoint. Scores: whole slices in one pass, float32, no post-processing; V_rand and V_info
after thinning at their best threshold, Dice at 0.5. Seconds are processor time of the training alone.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from monai.networks.nets import AttentionUnet, BasicUNet
from torch import nn

from napari_skipseg.devices import cpu_title, versions
from napari_skipseg.models.description import ModelDescription
from napari_skipseg.models.model import Model
from napari_skipseg.networks.build import build
from napari_skipseg.networks.gates import Select
from napari_skipseg.networks.network import Network, NetworkOutput, count_trainable
from napari_skipseg.networks.specs import UNetSpec
from napari_skipseg.progress import run_to_end
from napari_skipseg.training.compute import choose_compute
from napari_skipseg.training.distributed import ONE_PROCESS
from napari_skipseg.training.evaluate import WholeImages, iter_score_held_out
from napari_skipseg.training.fit import initialise
from napari_skipseg.training.patches import read_data
from napari_skipseg.training.settings import TrainSettings, settings_from_json
from napari_skipseg.training.train import iter_fit

HELD_OUT = "20-24"


class Foreign(Network):
    """A network of a different package, padded and cropped like one of ours with as many levels."""

    def __init__(self, inner: nn.Module, levels: int) -> None:
        super().__init__(UNetSpec(widths=(1,) * (levels + 1), skip="org"))
        self.inner = inner

    def run(self, image: torch.Tensor) -> NetworkOutput:
        return NetworkOutput(self.inner(image), ())


def basic_unet() -> Network:
    """MONAI's BasicUNet with its default widths (32, 32, 64, 128, 256, 32) and instance norm."""
    return Foreign(BasicUNet(spatial_dims=2, in_channels=1, out_channels=1), 4)


def attention_unet() -> Network:
    """MONAI's AttentionUnet with the widths of our U-Net."""
    channels, strides = (32, 64, 128, 256), (2, 2, 2)
    return Foreign(AttentionUnet(2, 1, 1, channels=channels, strides=strides), 3)


@dataclass(frozen=True)
class Row:
    """One line of the table: what differs from the common settings."""

    title: str
    spec: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    foreign: Any = None


RESIDUAL = {"network": "residual-fcn"}
ROWS = {
    "residual-both": Row("residual FCN, long + short", RESIDUAL),
    "residual-short": Row("residual FCN, only short", {**RESIDUAL, "skip": "none"}),
    "residual-long": Row("residual FCN, only long", {**RESIDUAL, "short_skips": False}),
    "unet-org": Row("U-Net, org", {"skip": "org"}),
    "unet-st": Row("U-Net, st", {"skip": "st"}),
    "unet-at": Row("U-Net, at", {"skip": "at"}),
    "unet-sat": Row("U-Net, sat, select from uniform [0, 1]", {"skip": "sat"}),
    "unet-sat-glorot": Row("U-Net, sat, select from Glorot (paper)", {"skip": "sat", "select_init": "glorot"}),
    "unet-deep-sat": Row("U-Net of 5 resolutions, sat", {"skip": "sat", "widths": [32, 64, 128, 256, 512]}),
    "monai-basic-unet": Row("MONAI BasicUNet", foreign=basic_unet),
    "monai-attention-unet": Row("MONAI AttentionUnet", foreign=attention_unet),
    "unet-sat-adadelta": Row("U-Net, sat, Adadelta + Glorot", {"skip": "sat"}, {"protocol": "adadelta-glorot"}),
    "unet-sat-rmsprop": Row("U-Net, sat, RMSprop + He", {"skip": "sat"}, {"protocol": "rmsprop-he"}),
    "residual-none": Row("residual FCN, no skips", {**RESIDUAL, "skip": "none", "short_skips": False}),
}


def settings_of(name: str, row: Row, folder: Path, seed: int, steps: int) -> TrainSettings:
    """Return the settings of a run: the package's defaults, the row's differences, the budget."""
    volume, labels = (next(iter(sorted(folder.glob(f"train-{kind}*.tif")))) for kind in ("volume", "labels"))
    values = {
        "name": name,
        "images": [str(volume)],
        "labels": [str(labels)],
        "classes": [{"name": "membrane", "label": 0}],
        "validate": HELD_OUT,
        "spec": {"network": "unet", **row.spec},
        "steps": steps,
        "validate_every": 50,
        "seed": seed,
        **row.settings,
    }
    return settings_from_json(TrainSettings, json.dumps(values))


def make_network(settings: TrainSettings, row: Row) -> Network:
    """Return the row's network, made from the seed."""
    torch.manual_seed(settings.seed)
    network = build(settings.spec) if row.foreign is None else row.foreign()
    initialise(network, settings.training_protocol)
    return network


def channels_off(network: Network) -> list[float]:
    """Return the share of channels that each select step switches off, finest level first."""
    return [round(module.fraction_off, 3) for module in network.modules() if isinstance(module, Select)]


def run(name: str, row: Row, folder: Path, out: Path, seed: int, steps: int) -> None:
    """Train and score one row; write its JSON."""
    title = f"{name}-{seed}"
    target = out / f"{title}.json"
    if target.exists():
        return
    settings = settings_of(name, row, folder, seed, steps)
    data = read_data(settings)
    network = make_network(settings, row)
    off = channels_off(network)
    parameters = count_trainable(network)
    spent_before = out / f"{title}.seconds"
    spent = float(spent_before.read_text()) if spent_before.exists() else 0.0
    began = time.process_time()
    work = iter_fit(
        settings,
        data,
        network,
        out / f"{title}.safetensors",
        choose_compute(network, settings.precision, "cpu", None, ONE_PROCESS),
    )
    state = None
    while state is None:
        try:
            progress = next(work)
            spent_before.write_text(str(spent + time.process_time() - began))
            if progress.done % 50 == 0:
                print(f"{title}: {progress.message}", flush=True)
        except StopIteration as stop:
            state = stop.value
    seconds = spent + time.process_time() - began
    description = ModelDescription(name, settings.spec, settings.classes, 64, "")
    whole = WholeImages(Model(description, network), torch.device("cpu"), "f32")
    scores = run_to_end(iter_score_held_out(whole, data.validation, ("membrane",), 2))
    values = {
        "name": name,
        "seed": seed,
        "steps": steps,
        "scores": scores,
        "parameters": parameters,
        "seconds": round(seconds),
        "channels_off": {"start": off, "end": channels_off(network)},
        "curves": state.curves,
        "cpu": cpu_title(),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }
    target.write_text(json.dumps(values, indent=1))
    print(f"{title}: {scores}, {seconds:.0f} s", flush=True)


def table(out: Path) -> str:
    """Return the runs in `out` as a Markdown table: the mean over seeds, and the spread where there are several."""
    lines = [
        "| network | parameters | V_rand | V_info | Dice | seeds | minutes a run |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in ROWS.items():
        runs = [json.loads(file.read_text()) for file in sorted(out.glob(f"{name}-[0-9].json"))]
        if not runs:
            continue
        scores = (shown([each["scores"][key] for each in runs]) for key in ("V_rand", "V_info", "Dice membrane"))
        minutes = sum(each["seconds"] for each in runs) / len(runs) / 60
        cells = (row.title, f"{runs[0]['parameters']:,}", *scores, str(len(runs)), f"{minutes:.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def shown(values: list[float]) -> str:
    """Return the mean, and the least and greatest of several."""
    mean = f"{sum(values) / len(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.3f}-{max(values):.3f})"


def main() -> None:
    """Run the benchmark that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="ISBI_FOLDER OUT; with --table, OUT")
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true")
    flags = parser.parse_args()
    if flags.table:
        print(table(flags.folders[-1]))
        return
    torch.set_num_threads(flags.threads)
    folder, out = flags.folders
    out.mkdir(parents=True, exist_ok=True)
    for seed in flags.seeds:
        for name in flags.only:
            run(name, ROWS[name], folder, out, seed, flags.steps)


if __name__ == "__main__":
    main()
