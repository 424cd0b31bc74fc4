"""Objects for other programs: meshes, skeletons, contacts, and labels in the formats of other viewers."""
