"""TIFF files: read lazily, checked, written."""
