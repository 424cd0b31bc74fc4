"""Training: samples, augmentation, losses, and the fit that turns settings into a model."""
