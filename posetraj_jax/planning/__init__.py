"""What a configuration needs of a machine that is not there, on one page."""
