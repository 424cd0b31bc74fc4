"""The analyses of the papers: from models and settings to numbers and pictures."""
