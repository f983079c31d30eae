"""Stage generate: the prompt grid drawn for one subject; pictures that an earlier grid already has are copied."""

from __future__ import annotations

from collections.abc import Mapping

from faceid_core.stages.work import Subject, Work
from faceid_core.store.cache import Output
from faceid_core.store.keys import StageCall

SHARD = "pictures.parquet"


class Generate:
    """See the module's sentence. Output: pictures.parquet, one row per prompt and seed."""

    name, version, batch = "generate", 2, 1
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
        """Draw what no earlier shard of the subject holds."""
        import time

        from faceid_core.evaluate.cells import DrawSettings, grid_cells
        from faceid_core.evaluate.generation import DrawRequest, draw
        from faceid_core.evaluate.grid import Prompt, PromptGrid
        from faceid_core.evaluate.shards import ShardRow, assemble, missing_cells, write_shard
        from faceid_core.personalize.control import IdentityUse
        from faceid_core.personalize.tokens import IdentityTokens

        for index, (work, blobs) in enumerate(zip(works, inputs, strict=True)):
            started = time.monotonic()
            p = work.call.parameters
            prompts = tuple(Prompt(i, text, category, {}) for i, text, category in p["prompts"])
            use = IdentityUse(**p.get("use", {}))
            settings = DrawSettings(
                base=work.call.weights["base"],
                sampler=p["sampler"],
                steps=p["steps"],
                guidance=p["guidance"],
                precision=work.call.precision,
                version=self.version,
                use=use,
            )
            wanted = grid_cells(
                PromptGrid("run", prompts, ""),
                range(p["seeds"]),
                settings,
                subject=p["text"] or work.call.inputs["tokens"],
            )
            kept, todo = missing_cells([v for k, v in blobs.items() if k.startswith("earlier:")], wanted)
            subject = p["text"] or IdentityTokens.from_bytes(blobs["tokens"])
            requests = [DrawRequest(subject, cell.prompt.text, cell.seed, use) for cell in todo]
            drawn = []
            for cell, picture in zip(
                todo,
                draw(
                    models.base,
                    requests,
                    sampler=p["sampler"],
                    steps=p["steps"],
                    guidance=p["guidance"],
                    batch=models.settings.batch,
                ),
                strict=True,
            ):
                drawn.append(ShardRow.of(cell, picture.image, picture.attention))
                tick(work.subject, len(drawn), len(todo))
            rows = assemble(kept, drawn, wanted)
            yield (
                index,
                {SHARD: Output(write_shard(rows), "application/vnd.apache.parquet")},
                {
                    "pictures_drawn": len(drawn),
                    "pictures_kept": len(kept),
                    "share_seconds": time.monotonic() - started,
                },
            )


STAGE = Generate()


def plan_works(plan, subject: Subject) -> list[Work]:
    """Everybody: people by their tokens, the class word and named people by their text."""
    config = plan.config
    parameters = {
        "prompts": [[p.id, p.text, p.category] for p in plan.grid.prompts],
        "seeds": config.generate.seeds,
        "sampler": config.generate.sampler,
        "steps": config.generate.steps,
        "guidance": config.generate.guidance,
        "text": subject.text,
    }
    # Absent by default, so that the keys of pictures drawn before there was a choice stay theirs.
    if use := plan.config.identity_use(subject.kind == "person").fields():
        parameters["use"] = use
    sources = {} if subject.text else {"tokens": subject.source("personalise", "tokens.safetensors")}
    precision = config.base_model.precision
    return [
        plan.work(subject, "generate", STAGE.version, parameters, sources, ("base",), precision=precision)
    ]
