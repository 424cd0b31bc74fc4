"""The Objects tab."""
