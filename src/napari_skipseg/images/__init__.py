"""Images: stacks with voxel size and origin, files, normalisation, tiles and the synthetic sample."""
