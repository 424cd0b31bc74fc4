"""Objects in a probability: found, cleaned, measured and counted, block by block where the stack is large."""
