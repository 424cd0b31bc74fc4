"""The commands and scripts in the guide for clusters say only what there is, and the job's script does its batch."""

from __future__ import annotations

import ast
import importlib
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from batch_folders import write_image

from napari_skipseg.cli import app

pytest.importorskip("distributed")

GUIDE = (Path(__file__).parents[2] / "docs" / "how-to" / "cluster.md").read_text(encoding="utf-8")
FLAG = re.compile(r"(?<![\w-])--[a-z][\w-]*")


def block(language: str) -> str:
    (text,) = re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)
    return str(text)


def flags_behind(command: str, text: str) -> set[str]:
    """The flags of all lines of the text that call a command."""
    calls = re.findall(rf"(?:^|&& |srun .*?){command} (.*?)(?:#|$)", text, re.MULTILINE)
    assert calls
    return {flag for call in calls for flag in FLAG.findall(call)}


def flags_of(command: object) -> set[str]:
    return {
        flag for parameter in getattr(command, "params", ()) for flag in [*parameter.opts, *parameter.secondary_opts]
    }


def batch_flags() -> set[str]:
    return flags_of(typer.main.get_command(app).commands["batch"])  # type: ignore[attr-defined]


def test_the_flags_of_batches_are_known() -> None:
    told = flags_behind("napari-skipseg batch", GUIDE)
    assert {"--workers", "--scheduler", "--recursive", "--format", "--device"} <= told
    words = {node.value for node in ast.walk(ast.parse(block("python"))) if isinstance(node, ast.Constant)}
    asked = {str(word) for word in words if str(word).startswith("--") and "lifetime" not in str(word)}
    assert asked == {"--scheduler", "--recursive", "--format", "--device"}
    assert told | asked <= batch_flags()


@pytest.mark.parametrize("program", ["scheduler", "worker"])
def test_the_flags_of_dask_are_known(program: str) -> None:
    told = flags_behind(f"dask {program}", GUIDE)
    if program == "worker":
        told |= set(FLAG.findall(next(line for line in GUIDE.splitlines() if "distributed.cli.dask_worker" in line)))
        told |= {"--no-nanny"}
    assert told <= flags_of(importlib.import_module(f"distributed.cli.dask_{program}").main)


def test_the_number_of_jobs_is_given_twice_as_dask_would_else_take_one() -> None:
    (adapt,) = (
        node for node in ast.walk(ast.parse(block("python"))) if isinstance(node, ast.Call) and _name(node) == "adapt"
    )
    counts = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in adapt.keywords}
    assert counts["minimum_jobs"] == counts["maximum_jobs"] > 1


def _name(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else ""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="clusters have bash")
def test_the_script_of_a_job_does_its_batch(tmp_path: Path, tiny: Path) -> None:
    for number in range(3):
        write_image(tmp_path / "data" / "deep" / f"{number}.tif", number)
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "srun").write_text('#!/bin/bash\n[ "$1" = --overlap ] && shift\nexec "$@"\n')
    (programs / "hostname").write_text("#!/bin/bash\necho 127.0.0.1\n")
    for program in programs.iterdir():
        program.chmod(0o755)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    script = block("bash").replace("/scratch/me", str(tmp_path)).replace("8786", port)
    script = script.rstrip() + f" --model {tiny}\n"
    paths = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": paths, "SLURM_CPUS_PER_TASK": "1"}
    with (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
        job = subprocess.Popen(["bash", "-c", script], env=environment, stdout=out, stderr=err, start_new_session=True)
        try:
            assert job.wait(240) == 0
        finally:
            os.killpg(job.pid, signal.SIGKILL)  # as SLURM does with what a job leaves
    told = (tmp_path / "out").read_text().splitlines()
    assert told[0] == "3 images: 3 done."
    assert len(list(Path(told[1]).glob("deep/*_probability.ome.zarr"))) == 3
