"""The miniature: a renderer of people and scenes, and small models trained on it, so that all runs without downloads.

`miniature_training` trains and measures these models.
"""
