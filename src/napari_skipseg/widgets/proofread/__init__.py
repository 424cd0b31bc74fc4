"""The Proofread tab."""
