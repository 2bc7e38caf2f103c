"""Weights between PyTorch and this project; the only place that knows channels-first layouts."""
