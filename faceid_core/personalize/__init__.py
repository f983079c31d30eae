"""Learns a person's tokens from one photo.

A training step reads in `trainer` (the loop and the steps), `objective` (the losses) and `attention` (cross-attention
with separate contexts for keys and values); `slots` holds the state of each person in training. `method`, `presets`,
`prompts`, `known_names` and `control` import no model library, so that the command line starts at once.
"""
