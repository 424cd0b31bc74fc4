"""`python -m napari_skipseg.cli`."""

from napari_skipseg.cli import main

main()
