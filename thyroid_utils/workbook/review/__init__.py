"""The panels of the app that shows a finished report's cases."""

MOST_BYTES = 50 * 2**20  # of one upload
