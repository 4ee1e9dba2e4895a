"""The panels of the app that shows a finished report's cases."""
