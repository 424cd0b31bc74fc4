"""Models: a trained network as one value, its folder on disk, and the library that finds it."""
