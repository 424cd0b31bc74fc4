"""Images: stacks with their physical truth, files, normalisation, tiles and the synthetic sample."""
