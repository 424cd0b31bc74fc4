"""The engine exports, imports and duplicates models; an error is one sentence, and a cancel leaves nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from napari_skipseg.errors import ModelError
from napari_skipseg.jobs.client import Engine
from napari_skipseg.jobs.messages import CopyModel
from napari_skipseg.models.catalog import MODELS_VARIABLE
from napari_skipseg.models.transfer import CopiedModel
from napari_skipseg.progress import run_to_end


def test_a_model_goes_out_and_comes_in_again(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "tiny.skipseg.zip"
    file.write_text("an older file, which the dialog has asked about")
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path / "models"))
    with Engine() as engine:  # one of its own: the folder of the models is that of its environment
        assert run_to_end(engine.run(CopyModel("export", model_folder, file))) == CopiedModel(file)
        folder = run_to_end(engine.run(CopyModel("import", file, name="mine"))).place
        assert folder == tmp_path / "models" / "mine"
        assert run_to_end(engine.run(CopyModel("duplicate", folder, name="twin"))).place == tmp_path / "models" / "twin"
        with pytest.raises(ModelError, match="'mine' already: import it with another name, such as mine-2"):
            run_to_end(engine.run(CopyModel("import", file, name="mine")))
        work = engine.run(CopyModel("import", file, name="stopped"))
        next(work)
        work.close()
        run_to_end(engine.run(CopyModel("export", folder, tmp_path / "after.zip")))
    found = {each.name: each / "weights.safetensors" for each in (tmp_path / "models").iterdir()}
    assert found.keys() - {"stopped"} == {"mine", "twin"}  # the stop may come after the end, and then it is whole
    assert {each.read_bytes() for each in found.values()} == {(model_folder / "weights.safetensors").read_bytes()}
