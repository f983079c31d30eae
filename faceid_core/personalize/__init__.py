"""Learns a person's tokens from one photo: method, stages, contexts, attention, losses, slots and trainer.

`method`, `presets`, `prompts` and `stages` import no model library: a command line shows them at once.
"""
