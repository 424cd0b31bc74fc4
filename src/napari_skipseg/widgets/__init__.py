"""The napari face: the panel, its tabs, and how layers become stacks and predictions become layers."""
