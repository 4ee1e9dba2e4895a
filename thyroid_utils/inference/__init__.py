"""Finished networks asked: predictions, explanations, uncertainty, and both stages together."""
