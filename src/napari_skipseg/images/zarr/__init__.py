"""OME-Zarr and zarr: read lazily, checked, written."""
