"""Score a segmentation against its truth: overlap of the masks, and the ISBI 2012 scores V_rand and V_info.

    python examples/score_against_truth.py

The sample knows its truth. With your own files: `napari-skipseg score PREDICTION TRUTH --isbi --membrane`.
"""

from __future__ import annotations

import napari_skipseg as skipseg


def main() -> None:
    sample = skipseg.make_sample((2, 256, 256), seed=3)
    prediction = skipseg.segment(sample.stack, skipseg.load_model("em-membrane"), attention=False)

    overlap = skipseg.score_overlap(prediction.binary(0.5).compute(), sample.membrane)
    print(f"membrane: Dice {overlap.dice:.3f}, precision {overlap.precision:.3f}, recall {overlap.recall:.3f}")

    isbi = skipseg.score_isbi(1 - prediction.probability, sample.membrane == 0)
    print(f"cells: V_rand {isbi.v_rand:.3f}, V_info {isbi.v_info:.3f}")


if __name__ == "__main__":
    main()
