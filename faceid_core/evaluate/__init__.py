"""How well the tokens work: a grid of prompts is drawn, every picture is scored, the scores become figures.

`grid` holds the prompts, `cells` names a picture before it exists, `generation` draws, `shards` keeps the
pictures, `scorers` builds what `metrics` asks, `summary` turns scores into figures with `intervals`.
"""
