"""Networks built on skip connections, one paper per module."""
