"""The command line, the runner from notebooks to HTML reports, and the report index."""
