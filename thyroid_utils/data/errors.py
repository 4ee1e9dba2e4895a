"""Errors about data that a person can act on."""


class DataError(ValueError):
    """Something on disk is not as expected. The message says where, what was expected, what was found and what to do."""


class ImageError(DataError):
    """One image or mask file cannot be used. The message is one line that names the file and the remedy."""
