"""The stages: detect, parse, mask, personalize, generate and score as pure functions of inputs to files.

A stage has two halves. `plan_works` (driver, no model loaded) puts everything that decides the result into a
`StageCall`; `execute` (worker) reads its parameters from that call alone, so that key and behavior cannot part.
"""

from faceid_core.stages.work import Done, Source, Stage, Subject, Work

STAGES = ("detect", "parse", "mask", "personalize", "generate", "score")

__all__ = ["STAGES", "Done", "Source", "Stage", "Subject", "Work", "stage_named"]


def stage_named(name: str) -> Stage:
    """Return the stage object of that name ('score-identity' and its like are one stage per metric)."""
    from faceid_core.stages import detect, generate, mask, parse, personalize, score

    simple = {s.name: s for s in (detect.STAGE, parse.STAGE, mask.STAGE, personalize.STAGE, generate.STAGE)}
    return simple.get(name) or score.stage_for(name.removeprefix("score-"))
