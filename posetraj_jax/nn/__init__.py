"""Building blocks of the networks, and the seam between NNX modules and plain parameter dicts."""
