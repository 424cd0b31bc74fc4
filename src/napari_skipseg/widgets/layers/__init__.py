"""Images and results as layers."""
