"""Phantoms: simulated thyroid ultrasound with known truth, the workbook's built-in data set.

Labels come first, TI-RADS traits from the label (`patients`), and pixels from the traits alone. Tissue maps of a neck
(`anatomy`, painted on a `canvas`) are filled with scatterers and imaged by one of three scanners (`imaging`); `cases` makes
frames and files of it. Whoever reads the traits perfectly reaches an AUC of 0.95.
"""
