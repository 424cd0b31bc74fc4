"""Kill fine-tuning at random moments, continue, and compare with an undisturbed run.

    python benchmarks/kills.py --work DIR [--kills 100] [--seed 0]

A small U-Net is trained from scratch on a synthetic stack, then fine-tuned over and over in a process of its own that
gets SIGKILL at a random moment between its start and 1.2 times the time of an undisturbed run, while it reads, trains,
saves a checkpoint, scores or writes the model. After each kill the new model's folder is absent or whole and its
parent's files are the same bytes; when a fine-tuning ends, its weights and description must be the undisturbed run's.
Kills while painting are tested separately (`pytest -m slow tests/corrections/test_kills.py`). Linux and macOS only.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import shutil
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
from measuring import print_place, print_table

from napari_skipseg.images.files import write_ome_tiff
from napari_skipseg.images.space import Space
from napari_skipseg.images.synthetic.sample import make_sample
from napari_skipseg.models.description import ClassLabel
from napari_skipseg.models.model import read_model
from napari_skipseg.networks.specs import UNetSpec
from napari_skipseg.progress import run_to_end
from napari_skipseg.training.finetune.labels import Corrected
from napari_skipseg.training.finetune.run import iter_finetune
from napari_skipseg.training.settings import FinetuneSettings, TrainSettings
from napari_skipseg.training.train import iter_train

NAME = "new"
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["napari_skipseg.training.finetune.run", "napari_skipseg.images.synthetic.sample"])


def train_parent(folder: Path) -> Path:
    """Return the folder of a small membrane model, which is trained if it is missing."""
    if (folder / "parent").exists():
        return folder / "parent"
    folder.mkdir(parents=True, exist_ok=True)
    sample = make_sample((4, 128, 128))
    size, unit = sample.stack.space.voxel_size, sample.stack.space.unit
    write_ome_tiff(folder / "image.tif", sample.stack.data, Space("ZYX", size, unit))
    write_ome_tiff(folder / "labels.tif", sample.membrane, Space("ZYX", size, unit))
    settings = TrainSettings(
        "parent", (str(folder / "image.tif"),), (str(folder / "labels.tif"),), (ClassLabel("membrane", 1),),
        validate="3", patch=(64, 64), steps=60, spec=UNetSpec(widths=(8, 16)), learning_rate=1e-2,
    )  # fmt: skip
    return run_to_end(iter_train(settings, folder, "cpu"))


def finetune(parent: Path, folder: Path) -> None:
    """Fine-tune the parent on mitochondria that are bright squares, or continue that."""
    labels = np.ones((2, 192, 192), np.uint8)
    labels[:, 24:168:48, 24:168] = 2
    sample = make_sample((2, 192, 192), seed=1)
    settings = FinetuneSettings(
        NAME, ("squares",), ("squares",), (ClassLabel("mitochondrion", 2),), reach="full", steps=40,
        patch=(64, 64), model=str(parent))  # fmt: skip
    run_to_end(iter_finetune(settings, [Corrected(sample.stack, labels, "squares")], folder, "cpu"))


def content(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file in a folder."""
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}


def main() -> None:
    """Kill as often as the command line says, and print the outcomes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    parent, runs = train_parent(flags.work / "parents"), flags.work / "runs"
    old = content(parent)
    undisturbed, seconds = flags.work / "undisturbed", 0.0
    for _ in range(2):  # the first one also fills caches
        shutil.rmtree(undisturbed, ignore_errors=True)
        undisturbed.mkdir()
        start = time.perf_counter()
        started(parent, undisturbed).join()
        seconds = time.perf_counter() - start
    expected = content(undisturbed / NAME)
    generator = np.random.default_rng(flags.seed)
    kills = ended = resumed = broken = differing = 0
    while kills < flags.kills:
        runs.mkdir(exist_ok=True)
        resumed += (runs / f"{NAME}.training").exists()
        process = started(parent, runs)
        process.join(float(generator.uniform(0, 1.2 * seconds)))
        if process.is_alive():
            process.kill()
            process.join()
        kills += process.exitcode == -signal.SIGKILL
        broken += content(parent) != old
        if (runs / NAME).exists():
            read_model(runs / NAME)
            differing += content(runs / NAME) != expected
            ended += 1
            shutil.rmtree(runs)
        elif process.exitcode not in (0, -signal.SIGKILL):
            broken += 1
    print_place(f"fine-tuning killed at random moments; undisturbed {seconds:.1f} s")
    heads = ("kills", "runs begun over a checkpoint", "models written", "broken", "different bytes")
    print_table(heads, [tuple(map(str, (kills, resumed, ended, broken, differing)))])


def started(parent: Path, folder: Path) -> BaseProcess:
    """Return the process that fine-tunes into a folder."""
    process = PROCESSES.Process(target=finetune, args=(parent, folder))
    process.start()
    return process


if __name__ == "__main__":
    main()
