"""Consoles that are not UTF-8 show everything, with a plain character for each one they lack."""

import io
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_skipseg import cli

ENCODINGS = ("cp437", "cp850", "cp1252", "cp932", "latin-1")
COMMANDS = ("segment", "objects", "batch", "run", "train", "finetune", "score", "networks", "models", "doctor", "study")


@pytest.fixture
def run_in(monkeypatch: pytest.MonkeyPatch):
    """Run a command as on a console of an encoding; return its exit code and what it wrote, as bytes."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    def run_in(encoding: str, *arguments: object) -> tuple[int, bytes, bytes]:
        written = io.BytesIO(), io.BytesIO()
        for name, buffer in zip(("stdout", "stderr"), written, strict=True):
            monkeypatch.setattr(sys, name, io.TextIOWrapper(buffer, encoding=encoding))
        monkeypatch.setattr(sys, "argv", ["napari-skipseg", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        sys.stdout.flush()
        sys.stderr.flush()
        return int(ended.value.code or 0), written[0].getvalue(), written[1].getvalue()

    return run_in


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_help_of_every_command_is_shown(run_in, encoding):
    for command in COMMANDS:
        code, out, err = run_in(encoding, command, "--help")
        assert (code, err) == (0, b""), command
        assert command in out.decode(encoding)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_cards_and_tables_are_shown_with_plain_characters(run_in, encoding):
    code, card, _ = run_in(encoding, "models", "show", "em-membrane")
    assert code == 0
    text = card.decode(encoding)
    assert "4 x 4 nm" in text or "4 × 4 nm" in text
    assert "->" in text or "→" in text
    assert "?" not in text
    assert run_in(encoding, "networks")[0] == 0


def test_an_error_names_a_file_whose_name_the_console_cannot_show(run_in, tmp_path: Path):
    code, _, err = run_in("cp1252", "segment", tmp_path / "Zellen→日本.tif", tmp_path / "out")
    assert code == 1
    assert "Zellen->??.tif" in err.decode("cp1252")


def test_a_table_of_scores_keeps_its_rows(run_in, tmp_path: Path):
    truth = np.zeros((2, 16, 16), np.uint8)
    truth[:, :, 8:] = 1
    tifffile.imwrite(tmp_path / "ÿσ.tif", truth, photometric="minisblack")
    code, out, _ = run_in("cp1252", "score", tmp_path / "ÿσ.tif", tmp_path / "ÿσ.tif", "--per-image")
    assert code == 0
    assert "1.00000" in out.decode("cp1252")


def test_bytes_of_a_name_that_is_no_utf8_come_out_as_they_are(run_in, tmp_path: Path):
    _, _, err = run_in("utf-8", "segment", tmp_path / "caf\udce9.tif", tmp_path / "out")
    assert b"caf\xe9.tif" in err
