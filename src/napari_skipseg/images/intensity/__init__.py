"""Grey values: measured, without padding and outliers, and normalised."""
