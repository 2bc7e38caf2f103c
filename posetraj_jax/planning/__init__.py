"""What a configuration needs of a machine that is not there: compiled, read, and put on one page."""
