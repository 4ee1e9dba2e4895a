"""Figures: functions that take data and return a `matplotlib.figure.Figure`, all in one style."""
