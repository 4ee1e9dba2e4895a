"""What can go wrong while a network is trained."""


class TrainingError(RuntimeError):
    """Training cannot go on. The message is one line: where, what was found, what to change."""
