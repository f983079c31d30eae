"""Weights: which models a configuration needs, where their files are, what their digests are, and how they come here.

`required.required(config)` names the models, `resolve.resolve(ref)` finds, checks and digests one; planner, workers,
doctor and fetch ask these two. docs/design/weights.md explains the choices.
- `catalog` lists what can be named, `roles` which models a metric asks, `hub` reads hub ids.
- `place` is a folder or bucket of weights and the copy of a bucket's files, `lock` is models.lock.
- `published_files` finds the files of a catalog's model, `base_model` and `describe` those of Stable Diffusion,
  `deepface_files` those of DeepFace.
- `status` says what is here, `fetch` and `download` bring the rest, `offline` keeps a run from downloading anything.
"""
