"""The package behind the thyroid ultrasound workbook: the notebooks hold the argument, this holds the code."""

__version__ = "0.1.0"
