"""The window of the model library: all models, what can be done with them, and two of them compared."""
