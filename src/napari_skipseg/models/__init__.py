"""Models: a trained network as one value, its folder on disk, and the catalog that finds it."""
