"""Measures of generated videos: how well tracks are followed, how real frames and motion look."""
