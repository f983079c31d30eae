"""Learns a person's tokens from one photo: the method, its stages, contexts, attention, losses, slots and trainer.

`method`, `presets`, `prompts` and `stages` import no model library, so that a command line can show them at once.
"""
