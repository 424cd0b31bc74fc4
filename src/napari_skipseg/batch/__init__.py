"""A folder of images segmented with one recipe, on one machine or many: its files, their states and its report."""
