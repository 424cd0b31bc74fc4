"""A folder of images segmented by one recipe, on one machine or on many: its files, their states, its report."""
