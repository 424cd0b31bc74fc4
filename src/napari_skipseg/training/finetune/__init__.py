"""Fine-tuning from corrections."""
