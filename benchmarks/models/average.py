"""Average the weights of two models of one network, such as before and after a further training (Wortsman et al. 2022).

    python benchmarks/models/average.py FIRST SECOND SHARE OUT

OUT gets (1 - SHARE) of the weights of FIRST and SHARE of those of SECOND, doi:10.48550/arXiv.2203.05482; all else is as
in SECOND. It lies between two models that came from one, so it does not work for two that were trained apart.
"""

import sys
from dataclasses import replace
from pathlib import Path

from napari_skipseg.models.folder import SAMPLE_FILE
from napari_skipseg.models.model import read_model, write_model


def main(first: Path, second: Path, share: float, out: Path) -> None:
    """Write the model `out`."""
    before, after = read_model(first), read_model(second)
    state, other = after.network.state_dict(), before.network.state_dict()
    if [(name, value.shape) for name, value in state.items()] != [(name, value.shape) for name, value in other.items()]:
        sys.exit(f"{first} and {second} have different networks.")
    mean = {
        name: other[name] + share * (value - other[name]) if value.is_floating_point() else value
        for name, value in state.items()
    }
    after.network.load_state_dict(mean)
    sample = second / SAMPLE_FILE
    content = sample.read_bytes() if sample.exists() else None
    written = write_model(out, replace(after.description, name=out.name), after.network, content)
    print(f"{out}: {written.description.weights_sha256}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4]))
