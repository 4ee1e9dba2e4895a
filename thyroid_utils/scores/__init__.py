"""Metrics and statistics: numbers from labels, probabilities and masks."""
