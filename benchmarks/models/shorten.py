"""Round the kernels of a model in 16-bit floats to fewer bits, so that they take less room in the wheel.

    python benchmarks/models/shorten.py BITS MODEL_FOLDER

A 16-bit float has 10 bits of mantissa. Bits that are zero are compressed away in the wheel and in a shared model, which
are zip files; the file of the weights itself keeps its size. Biases and norms stay as they are: they are few, and they
act on all pixels. Judge the model before and after: `judge.py`.
"""

import hashlib
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save

from napari_skipseg.models.description import description_to_json
from napari_skipseg.models.folder import DESCRIPTION_FILE, WEIGHTS_FILE, read_description

MANTISSA = 10


def rounded(kernel: torch.Tensor, bits: int) -> torch.Tensor:
    """Return a float16 tensor whose mantissas are rounded to `bits` bits, halves to the even neighbour."""
    dropped = MANTISSA - bits
    patterns = kernel.view(torch.int16).to(torch.int32)
    half = (1 << (dropped - 1)) - 1 + ((patterns >> dropped) & 1)
    # a carry out of the mantissa raises the exponent, which is the right value
    patterns = (patterns + half) >> dropped << dropped
    return patterns.to(torch.int16).view(torch.float16)


def main(bits: int, folder: Path) -> None:
    if not 0 < bits < MANTISSA:
        raise SystemExit(f"BITS lies between 1 and {MANTISSA - 1}, not {bits}.")
    weights = load_file(folder / WEIGHTS_FILE)
    shorter = {
        name: rounded(values, bits) if values.dtype == torch.float16 and values.dim() > 1 else values
        for name, values in weights.items()
    }
    before = (folder / WEIGHTS_FILE).read_bytes()
    content = save(shorter)
    description = replace(read_description(folder), weights_sha256=hashlib.sha256(content).hexdigest())
    (folder / WEIGHTS_FILE).write_bytes(content)
    (folder / DESCRIPTION_FILE).write_text(description_to_json(description), encoding="utf-8")
    sizes = [len(zlib.compress(data)) / 1e6 for data in (before, content)]
    print(f"{folder.name}: {len(content) / 1e6:.1f} MB, compressed {sizes[0]:.1f} -> {sizes[1]:.1f} MB")


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
