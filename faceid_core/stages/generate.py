"""Stage generate: the prompt grid drawn for one subject; pictures that an earlier grid already has are copied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from faceid_core.errors import FaceidError
from faceid_core.stages.work import Subject, Work
from faceid_core.store.cache import Output
from faceid_core.store.keys import StageCall

SHARD = "pictures.parquet"
_SHARED = ("sampler", "steps", "guidance")  # parameters that the plan gives all subjects alike
_CONSTANT = 2  # levels of 256 that a picture of one color may span


class ConstantPictures(FaceidError):
    """Some of a subject's pictures are one color only."""

    def __init__(self, constant: int, drawn: int):
        super().__init__(
            f"{constant} of {drawn} pictures are one color only, as when the decoder overflows; "
            "set base_model.precision to float32 or bfloat16, or learn the person again"
        )


class Generate:
    """See the module's sentence. Output: pictures.parquet, one row per prompt and seed."""

    name, version, batch = "generate", 2, None  # None: the configured number of slots
    reuses = SHARD

    @staticmethod
    def may_reuse(earlier: Mapping, call: StageCall) -> bool:
        """Whether a shard made for `earlier` (a preimage) can hold pictures of this call: same base, same subject."""
        same = earlier["weights"].get("base") == call.weights["base"]
        return same and (earlier["inputs"].get("tokens"), earlier["parameters"].get("text")) == (
            call.inputs.get("tokens"),
            call.parameters["text"],
        )

    def execute(self, works, inputs, models, tick):
        """Draw what no earlier shard of a subject holds; pictures of all subjects share the passes."""
        import time

        from faceid_core.evaluate.generation import draw
        from faceid_core.evaluate.shards import ShardRow, assemble, write_shard

        base, sheets = models.base, []
        for index, (work, blobs) in enumerate(zip(works, inputs, strict=True)):
            try:
                sheets.append(_sheet(index, work, blobs, base.description.digest))
            except FaceidError as error:  # tokens that cannot be used are their owner's trouble only
                yield index, error, {}
        shared = works[0].call.parameters
        assert all(work.call.parameters[name] == shared[name] for work in works for name in _SHARED)
        drawing: list[tuple] = []  # whose picture is awaited, how many are drawn, of how many

        def still_drawing() -> None:
            tick(*drawing[0])

        pictures = draw(
            base,
            [request for sheet in sheets for request in sheet.requests],
            **{name: shared[name] for name in _SHARED},
            batch=models.settings.batch,
            on_step=still_drawing,
        )
        started = time.monotonic()
        for sheet in sheets:
            drawn, constant = [], 0
            for cell in sheet.todo:
                drawing[:] = [(sheet.subject, len(drawn), len(sheet.todo))]
                picture = next(pictures)
                constant += int(np.ptp(picture.image)) <= _CONSTANT
                drawn.append(ShardRow.of(cell, picture.image, picture.attention))
                tick(sheet.subject, len(drawn), len(sheet.todo))
            seconds, started = time.monotonic() - started, time.monotonic()
            if constant:
                yield sheet.index, ConstantPictures(constant, len(drawn)), {"share_seconds": seconds}
                continue
            rows = assemble(sheet.kept, drawn, sheet.wanted)
            yield (
                sheet.index,
                {SHARD: Output(write_shard(rows), "application/vnd.apache.parquet")},
                {"pictures_drawn": len(drawn), "pictures_kept": len(sheet.kept), "share_seconds": seconds},
            )


@dataclass(frozen=True)
class _Sheet:
    """One subject's grid: the cells wanted, what earlier shards have of them, and the requests for the rest."""

    index: int
    subject: str
    wanted: list
    kept: dict
    todo: list
    requests: list


def _sheet(index: int, work: Work, blobs: Mapping[str, bytes], base_digest: str) -> _Sheet:
    from faceid_core.evaluate.cells import DrawSettings, grid_cells
    from faceid_core.evaluate.generation import DrawRequest
    from faceid_core.evaluate.grid import Prompt, PromptGrid
    from faceid_core.evaluate.shards import missing_cells
    from faceid_core.personalize.control import IdentityUse
    from faceid_core.personalize.tokens import IdentityTokens

    p = work.call.parameters
    use = IdentityUse(**p.get("use", {}))
    settings = DrawSettings(
        base=work.call.weights["base"],
        **{name: p[name] for name in _SHARED},
        precision=work.call.precision,
        version=STAGE.version,
        use=use,
    )
    prompts = tuple(Prompt(i, text, category, {}) for i, text, category in p["prompts"])
    wanted = grid_cells(
        PromptGrid("run", prompts, ""),
        range(p["seeds"]),
        settings,
        subject=p["text"] or work.call.inputs["tokens"],
    )
    kept, todo = missing_cells([v for k, v in blobs.items() if k.startswith("earlier:")], wanted)
    subject = p["text"]
    if not subject:
        subject = IdentityTokens.from_bytes(blobs["tokens"])
        subject.require_base(base_digest)
    requests = [DrawRequest(subject, cell.prompt.text, cell.seed, use) for cell in todo]
    return _Sheet(index, work.subject, wanted, kept, todo, requests)


STAGE = Generate()


def plan_works(plan, subject: Subject) -> list[Work]:
    """Everybody: people by their tokens, the class word and named people by their text."""
    config = plan.config
    parameters = {
        "prompts": [[p.id, p.text, p.category] for p in plan.grid.prompts],
        "seeds": config.generate.seeds,
        "sampler": config.generate.sampler,
        "steps": config.generate.steps,
        "guidance": config.generate.guidance_scale,
        "text": subject.text,
    }
    # Absent by default, so that the keys of pictures drawn before there was a choice stay theirs.
    if use := plan.config.identity_use(subject.kind == "person").fields():
        parameters["use"] = use
    sources = {} if subject.text else {"tokens": subject.source("personalize", "tokens.safetensors")}
    precision = config.base_model.precision
    return [
        plan.work(subject, "generate", STAGE.version, parameters, sources, ("base",), precision=precision)
    ]
