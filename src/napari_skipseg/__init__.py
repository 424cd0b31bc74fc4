"""napari-skipseg."""
