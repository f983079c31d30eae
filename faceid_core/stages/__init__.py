"""The stages: detect, parse, mask, personalize, generate and score, pure functions of inputs to files.

`planning/` is the driver's half: it puts everything that decides a result into a `StageCall`, without a model.
`executing/` is the worker's half: it reads its parameters from that call alone, so that the stage key covers them all.
`work.py` holds what the two halves pass to each other, `worker.py` reads inputs from the store and commits results.
"""

from faceid_core.stages.work import STAGES, Done, Source, StageSpec, Subject, Work

__all__ = ["STAGES", "Done", "Source", "StageSpec", "Subject", "Work"]
