"""Paper 003's ablations again: its tables as runs, what these say, and where the paper's own figures do not add up."""
