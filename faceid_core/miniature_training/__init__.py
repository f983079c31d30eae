"""Trains and measures the miniature world's models; runs import nothing from this package."""
