"""A network of somebody else gives here what its package promises, or one sentence says why it is not imported."""

from __future__ import annotations

import hashlib
import http.server
import json
import stat
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign_packages import Blur, plain_rdf, write_foreign, zipped
from tiny_models import write_tiny
from torch import Tensor, nn

from napari_skipseg.api import segment
from napari_skipseg.errors import ModelError, SkipsegError
from napari_skipseg.images.intensity.grey_steps import GreyStep, combine_steps
from napari_skipseg.models.description import card_as_text
from napari_skipseg.models.exchange import archive
from napari_skipseg.models.exchange.import_package import iter_import_package
from napari_skipseg.models.exchange.network_files import export_onnx, onnx_bytes
from napari_skipseg.models.exchange.package import export_package
from napari_skipseg.models.model import read_model
from napari_skipseg.networks.imported import ImportedNetwork
from napari_skipseg.networks.specs import FixedStep, ImportedSpec
from napari_skipseg.progress import run_to_end
from napari_skipseg.training.finetune.run import iter_finetune
from napari_skipseg.training.settings import FinetuneSettings

pytest.importorskip("bioimageio.spec")
FREE = {"min": 8, "step": 4}


def imported(package: Path, name: str = "nuclei", **more: Any) -> Path:
    return run_to_end(iter_import_package(str(package), name, package.parent / "models", **more))


def refusal(package: Path) -> str:
    with pytest.raises(ModelError) as found:
        imported(package)
    assert not (package.parent / "models" / "nuclei").exists()
    return str(found.value)


def preprocessed(*steps: dict[str, Any], size: Any = 16) -> dict[str, Any]:
    rdf = plain_rdf(size)
    rdf["inputs"][0]["preprocessing"] = list(steps)
    return rdf


def blurred(image: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return Blur()(torch.from_numpy(image.astype(np.float32))[None, None]).numpy()[0, 0]


@pytest.mark.parametrize("size", [16, FREE], ids=["fixed size", "free size"])
def test_a_foreign_network_is_a_model_that_segments_any_image_in_tiles(size: Any, tmp_path: Path) -> None:
    image = np.random.default_rng(1).normal(50, 9, (37, 45)).astype(np.float32)
    step = {"id": "zero_mean_unit_variance", "kwargs": {"axes": ["channel", "y", "x"]}}
    rdf = preprocessed(step, size=size)
    write_foreign(tmp_path / "p", rdf, prepare=lambda values: (values - values.mean()) / (values.std() + 1e-6))
    folder = imported(zipped(tmp_path / "p"))
    found = segment(image, folder, device="cpu", tile=24)
    assert found.class_names == ("Nucleus",)
    standard = (image - image.mean()) / image.std()
    inside = (slice(2, -2), slice(2, -2))  # a network pads with 0 where an image ends, and a tile is mirrored there
    assert np.abs(np.asarray(found.probability)[inside] - blurred(standard)[inside]).max() <= 1e-4
    assert (found.recipe["backend"], found.recipe["precision"]) == ("torch", "f32")


def test_an_onnx_network_gives_what_it_gave_where_it_was_made(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = read_model(write_tiny(tmp_path / "source", margin=4))
    pixels = np.random.default_rng(0).normal(size=(1, 1, 24, 24)).astype(np.float32)
    rdf = plain_rdf({"min": 16, "step": 2}, halo=4) | {"weights": {"onnx": {"source": "net.onnx", "opset_version": 17}}}
    with torch.no_grad():
        wanted = torch.sigmoid(model.network(torch.from_numpy(pixels)).logits).numpy()
    write_foreign(tmp_path / "p", rdf, image=pixels)
    (tmp_path / "p" / "net.onnx").write_bytes(onnx_bytes(model))
    np.save(tmp_path / "p" / "out.npy", wanted)
    folder = imported(tmp_path / "p")
    found = segment(pixels[0, 0], folder, device="cpu")
    assert np.abs(np.asarray(found.probability) - wanted[0, 0]).max() <= 1e-5


def test_the_card_of_an_imported_model_says_what_it_is_and_whose(tmp_path: Path) -> None:
    write_foreign(tmp_path / "p")
    (tmp_path / "p" / "LICENSE").write_text("CC BY")
    folder = imported(tmp_path / "p", name="")
    text = card_as_text(read_model(folder).description)
    assert folder.name == "nuclei-2d"
    assert (folder / "LICENSE.txt").read_text() == "CC BY"
    for part in ("CC-BY-4.0", "finds nuclei", "Body 2020 (10.1234/abc)", "Some Body", "and not fine-tuned"):
        assert part in text


def test_an_imported_network_is_not_fine_tuned_and_not_exported(tmp_path: Path) -> None:
    folder = imported(write_foreign(tmp_path / "p"))
    settings = FinetuneSettings(images=("a.tif",), labels=("b.tif",), model=str(folder), name="more")
    with pytest.raises(ModelError, match="can be used, but not fine-tuned"):
        run_to_end(iter_finetune(settings, (), tmp_path))
    for export in (export_onnx, export_package):
        with pytest.raises(ModelError, match="share that package"):
            export(folder, tmp_path)


@pytest.mark.parametrize(
    "steps",
    [
        (GreyStep("scale_linear", gain=2, offset=-3), GreyStep("clip", low=10, high=120)),
        (GreyStep("scale_range", low_percentile=1, high_percentile=99.8), GreyStep("clip", low=0, high=1)),
        (GreyStep("clip", low_percentile=5, high_percentile=95), GreyStep("zero_mean_unit_variance")),
        (GreyStep("zero_mean_unit_variance"), GreyStep("clip", low=-1, high=2), GreyStep("scale_range", eps=0.1)),
        (),
    ],
)
def test_several_steps_on_grey_values_are_one_normalisation(steps: tuple[GreyStep, ...]) -> None:
    values = np.random.default_rng(0).gamma(3, 20, (50, 60)).astype(np.float32)
    wanted = values.astype(np.float64)
    for step in steps:
        match step.kind:
            case "scale_linear":
                wanted = step.gain * wanted + step.offset
            case "clip" if step.low_percentile is not None:
                wanted = np.clip(wanted, *np.percentile(wanted, [step.low_percentile, step.high_percentile]))
            case "clip":
                wanted = np.clip(wanted, step.low, step.high)
            case "zero_mean_unit_variance":
                wanted = (wanted - wanted.mean()) / (wanted.std() + step.eps)
            case "scale_range":
                percents = (step.low_percentile or 0, step.high_percentile or 100)
                low, high = np.percentile(wanted, percents)
                wanted = (wanted - low) / (high - low + step.eps)
    found = combine_steps(steps, values).apply(values)
    assert np.abs(found - wanted).max() <= 1e-4 * max(1, np.abs(wanted).max())


def test_operations_around_the_network_are_done(tmp_path: Path) -> None:
    class Two(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return torch.cat([image, 2 * image, 3 * image], 1)

    rdf = preprocessed(
        {"id": "sigmoid"}, {"id": "scale_linear", "kwargs": {"axis": "channel", "gain": [2.0], "offset": 1}}
    )
    rdf["outputs"][0]["axes"][1]["channel_names"] = ["background", "a", "b"]
    rdf["outputs"][0]["postprocessing"] = [{"id": "softmax", "kwargs": {"axis": "channel"}}]
    package = write_foreign(tmp_path / "p", rdf, Two())
    values = torch.from_numpy(np.load(package / "in.npy"))
    wanted = torch.softmax(Two()(2 * torch.sigmoid(values) + 1), 1)[:, 1:].numpy()
    np.save(package / "out.npy", np.concatenate([wanted[:, :1], wanted], 1))
    model = read_model(imported(package))
    assert model.description.class_names == ("a", "b")
    assert model.description.spec.before == (FixedStep("sigmoid"), FixedStep("scale_linear", (2.0,), (1.0,)))
    assert np.abs(model.network(values).logits.numpy() - wanted).max() <= 1e-6


def test_axes_in_another_order_and_a_package_of_version_0_4(tmp_path: Path) -> None:
    class Turned(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return torch.sigmoid(image).transpose(1, 2)[0]

    tensor = {"data_type": "float32"}
    rdf = {
        **plain_rdf(16), "format_version": "0.4.10", "timestamp": "2024-01-01T00:00:00", "tags": [],
        "test_inputs": ["in.npy"], "test_outputs": ["out.npy"],
        "inputs": [tensor | {"name": "raw", "axes": "bxyc", "shape": [1, 16, 20, 1],
            "preprocessing": [{"name": "scale_range", "kwargs": {"mode": "per_sample", "axes": "xyc"}}]}],
        "outputs": [tensor | {"name": "out", "axes": "bxyc", "shape": [1, 16, 20, 1]}],
        "weights": {"torchscript": {"source": "net.pt"}},
    }  # fmt: skip

    class Same(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return torch.sigmoid(image)

    image = np.random.default_rng(0).normal(5, 2, (1, 16, 20, 1)).astype(np.float32)
    package = write_foreign(tmp_path / "p", rdf, Same(), image, lambda v: (v - v.min()) / (v.max() - v.min() + 1e-6))
    model = read_model(imported(package))
    assert (model.description.spec.input_axes, model.description.spec.least) == ("bxyc", (20, 16))
    pixels = torch.randn(1, 1, 20, 16)
    assert torch.equal(model.network(pixels).logits, torch.sigmoid(pixels))


def test_windows_of_a_fixed_size_agree_with_the_whole_image() -> None:
    class Whole(ImportedNetwork):
        def _runner(self, device: torch.device) -> Callable[[Tensor], list[Tensor]]:
            def run(values: Tensor) -> list[Tensor]:
                assert values.shape[2:] == (9, 12)
                return [Blur()(values)]

            return run

    image = torch.randn(2, 1, 31, 12)
    found = Whole(ImportedSpec(least=(9, 12), steps=(0, 0), halo=(1, 1)))(image).logits
    inside = (slice(None), slice(None), slice(1, -1), slice(1, -1))
    assert torch.allclose(found[inside], Blur()(image)[inside], atol=1e-6)


class _Logits(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return 5 * image


def _rdf(**more: Any) -> dict[str, Any]:
    return plain_rdf(16) | more


def _changed(place: str, **more: Any) -> dict[str, Any]:
    rdf = plain_rdf(16)
    rdf[place][0] |= more
    return rdf


_PYTHON = {"pytorch_state_dict": {"source": "net.pt", "pytorch_version": "2.4.0", "sha256": "0" * 64,
    "architecture": {"callable": "Net", "source": "net.py", "sha256": "0" * 64}}}  # fmt: skip
_TWO = [plain_rdf(16)["inputs"][0] | {"id": name} for name in ("raw", "more")]
DESCRIBED: dict[str, tuple[dict[str, Any], str]] = {
    "python code": (_rdf(weights=_PYTHON), "only as Python code"),
    "keras": (_rdf(weights={"keras_hdf5": {"source": "net.h5", "tensorflow_version": "2.4.0"}}), "ONNX and Torch"),
    "version": (_rdf(format_version="0.9.0"), "format version 0.9.0"),
    "no version": (_rdf(format_version=None), "format version"),
    "data set": (_rdf(type="dataset"), "describes no model"),
    "not valid": (_rdf(inputs=[]), "is not valid (inputs"),
    "two inputs": (_rdf(inputs=_TWO), "2 images at once"),
    "part": (preprocessed({"id": "zero_mean_unit_variance", "kwargs": {"axes": ["x"]}}), "zero_mean_unit_variance of"),
    "statistics behind": (
        preprocessed({"id": "sigmoid"}, {"id": "zero_mean_unit_variance", "kwargs": {"axes": ["channel", "y", "x"]}}),
        "'zero_mean_unit_variance', which is not supported",
    ),
    "turned round": (preprocessed({"id": "scale_linear", "kwargs": {"gain": -1.0, "offset": 0}}), "scale_linear"),
    "statistics of the output": (
        _changed("outputs", postprocessing=[{"id": "scale_range", "kwargs": {}}]), "'scale_range'",
    ),
    "a file elsewhere": (
        _changed("inputs", test_tensor={"source": "https://example.com/in.npy"}), "not in it (https://example.com",
    ),
    "wrong hash": (
        _rdf(weights={"torchscript": {"source": "net.pt", "pytorch_version": "2.4.0", "sha256": "0" * 64}}),
        "'net.pt' of the package is damaged",
    ),
    "missing file": (_changed("inputs", test_tensor={"source": "gone.npy"}), "'gone.npy' is missing"),
}  # fmt: skip


@pytest.mark.parametrize("name", DESCRIBED)
def test_what_a_description_asks_for_and_is_not_here_is_refused_by_name(name: str, tmp_path: Path) -> None:
    rdf, sentence = DESCRIBED[name]
    assert sentence in refusal(write_foreign(tmp_path / "p", rdf))


def test_a_network_that_breaks_its_promise_is_refused(tmp_path: Path) -> None:
    package = write_foreign(tmp_path / "p")
    np.save(package / "out.npy", np.zeros((1, 1, 16, 16), np.float32))
    assert "does not give its own test output (it differs by up to" in refusal(package)
    np.save(package / "out.npy", np.zeros((1, 1, 8, 8), np.float32))
    assert "another size" in refusal(package)
    np.save(package / "out.npy", np.array([object()]), allow_pickle=True)
    assert "no array of numbers" in refusal(package)
    assert "no probabilities" in refusal(write_foreign(tmp_path / "q", network=_Logits()))


def test_a_damaged_network_or_one_that_reads_files_is_refused(tmp_path: Path) -> None:
    class Reads(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return torch.from_file("/etc/hostname", False, 0) + torch.sigmoid(image)

    package = write_foreign(tmp_path / "p")
    with warnings.catch_warnings(action="ignore"):  # newer torch calls torch.jit old
        torch.jit.save(torch.jit.script(Reads()), str(package / "net.pt"))
    assert "uses 'torch.from_file'" in refusal(package)
    (package / "net.pt").write_bytes(b"no network")
    assert "damaged" in refusal(package)
    (package / "net.pt").write_bytes(zipped(tmp_path / "p").read_bytes())
    assert "cannot be read" in refusal(package)
    (package / "rdf.yaml").write_text("a: [")
    assert "no valid YAML" in refusal(package)


def entry(name: str, mode: int = 0o644) -> zipfile.ZipInfo:
    found = zipfile.ZipInfo(name)
    found.external_attr = mode << 16
    return found


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("../out.txt", "leads out"), ("/etc/x", "leads out"), ("a\\b", "leads out"), ("C:x", "leads out"),
     ("link", "is a link"), ("RDF.yaml", "a file twice")],
)  # fmt: skip
def test_a_zip_with_an_unsafe_entry_is_not_unpacked(name: str, sentence: str, tmp_path: Path) -> None:
    file = zipped(write_foreign(tmp_path / "p"))
    with zipfile.ZipFile(file, "a") as writing:
        writing.writestr(entry(name, stat.S_IFLNK | 0o777 if name == "link" else 0o644), "x")
    assert sentence in refusal(file)
    assert not (tmp_path / "out.txt").exists()


def test_a_zip_that_is_too_large_cut_off_or_no_package_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = write_foreign(tmp_path / "p")
    bomb = zipped(package, {"bomb": b"\0" * 2**21})
    monkeypatch.setattr(archive, "LARGEST_PACKAGE", 2**20)
    assert "it is not imported" in refusal(bomb)
    monkeypatch.undo()
    monkeypatch.setattr(archive, "MOST_PACKED_FILES", 3)
    assert "more than 3 files" in refusal(bomb)
    monkeypatch.undo()
    whole = bomb.read_bytes()
    bomb.write_bytes(whole[: len(whole) // 2])
    assert "no whole zip file" in refusal(bomb)
    assert "no rdf.yaml" in refusal(zipped(package, without="rdf.yaml"))
    assert "There is no file" in refusal(tmp_path / "gone.zip")


def test_a_bomb_that_lies_about_its_size_is_stopped(tmp_path: Path) -> None:
    file = zipped(write_foreign(tmp_path / "p"))
    content = (tmp_path / "p" / "net.pt").read_bytes()
    size = len(content).to_bytes(4, "little")
    file.write_bytes(file.read_bytes().replace(size, (10).to_bytes(4, "little")))
    assert "no whole zip file" in refusal(file) or "larger than it says" in refusal(file)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of a server of the files in `tmp_path`."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *message: Any) -> None:
            pass

    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{made.server_port}"
    made.shutdown()
    thread.join()
    made.server_close()


def test_an_address_is_fetched_if_its_hash_is_right(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = zipped(write_foreign(tmp_path / "p"))
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()

    def fetch(address: str, told: str) -> Path:
        return run_to_end(iter_import_package(address, "nuclei", tmp_path / "models", told))

    for address, told, sentence in (
        (f"{server}/p.zip", "", "not encrypted"),
        (f"{server}/p.zip", "1" * 64, f"its SHA-256 is {sha256}"),
        (f"{server}/p.zip", "abc", "is no SHA-256"),
        (f"{server}/gone.zip", sha256, "answers 404"),
        ("http://127.0.0.1:9/p.zip", sha256, "cannot be fetched"),
        (str(tmp_path / "p"), sha256, "leave the hash out"),
    ):
        with pytest.raises(ModelError, match=sentence):
            fetch(address, told)
    monkeypatch.setattr(archive, "LARGEST_PACKAGE", 100)
    with pytest.raises(ModelError, match="it is not imported"):
        fetch(f"{server}/p.zip", sha256)
    monkeypatch.undo()
    assert read_model(fetch(f"{server}/p.zip", sha256)).description.class_names == ("Nucleus",)
    with pytest.raises(ModelError, match="nuclei"):  # the name is taken
        fetch(f"{server}/p.zip", sha256)


def test_a_package_of_ours_with_changed_weights_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    package = export_package(write_tiny(tmp_path / "m"), tmp_path)
    with zipfile.ZipFile(package) as reading:
        files = {name: reading.read(name) for name in reading.namelist()}
    files["weights.safetensors"] = files["weights.safetensors"][:-1] + b"\1"
    with zipfile.ZipFile(package, "w") as writing:
        for name, content in files.items():
            writing.writestr(name, content)
    assert "is damaged" in refusal(package)


def test_a_folder_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from napari_skipseg.models.exchange import import_package

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(import_package, "put_files", full)
    assert "No space left" in refusal(write_foreign(tmp_path / "p"))


def test_specs_of_imported_networks_that_cannot_be_are_refused() -> None:
    for wrong in ({"input_axes": "bcy"}, {"least": (4, 4), "halo": (2, 2)}, {"channels": ()}, {"least": (1,)}):
        with pytest.raises(SkipsegError):
            ImportedSpec(**wrong)  # type: ignore[arg-type]
    assert json.dumps(ImportedSpec().stride) == "1"
