"""Grey values: what is measured of them, what is left out, how they are normalised."""
