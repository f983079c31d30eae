"""Base models: loading, freezing and describing the text-to-image network on which people are learned.

`base` loads a model, taken apart by `parts`, and imports torch and diffusers; `token_count` counts a prompt's tokens
without either.
"""
