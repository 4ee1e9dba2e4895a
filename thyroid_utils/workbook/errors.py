"""Errors of the command line that a person can act on; each is told in a line and ends in exit code 2."""


class ParameterError(ValueError):
    """A parameter file, option or notebook cannot be used as given. The message says where, what was found and what to do."""


class RunError(RuntimeError):
    """The run cannot start or go on. The message is one line that names the folder and the remedy."""
