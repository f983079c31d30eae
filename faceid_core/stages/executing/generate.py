"""Stage generate: the prompt grid drawn for one subject; pictures that an earlier grid already has are copied."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from faceid_core.config.control import IdentityUse
from faceid_core.errors import FaceidError
from faceid_core.evaluate.cells import Cell, DrawSettings, grid_cells
from faceid_core.evaluate.generation import DrawRequest, draw
from faceid_core.evaluate.grid import Prompt, PromptGrid
from faceid_core.evaluate.shards import ShardRow, assemble, missing_cells, write_shard
from faceid_core.personalize.tokens import IdentityTokens
from faceid_core.progress import ProgressCallback
from faceid_core.stages.executing.stage import EARLIER, Inputs, StageResult
from faceid_core.stages.models import Models
from faceid_core.stages.planning.generate import SHARD
from faceid_core.stages.work import Work
from faceid_core.store.cache import Output

# Parameters that the plan gives all subjects alike.
_SHARED = ("sampler", "steps", "guidance_scale")
_CONSTANT = 2  # levels of 256 that a picture of one color may span


class ConstantPictures(FaceidError):
    """Some of a subject's pictures are one color only."""

    def __init__(self, constant: int, drawn: int):
        super().__init__(
            f"{constant} of {drawn} pictures are one color only, as when the decoder overflows; "
            "set base_model.precision to float32 or bfloat16, or learn the person again"
        )


def execute(
    works: Sequence[Work], inputs: Sequence[Inputs], models: Models, on_progress: ProgressCallback
) -> Iterator[StageResult]:
    """Draw what no earlier shard of a subject holds; pictures of all subjects share the passes.

    Output: pictures.parquet, one row per prompt and seed.
    """
    base, sheets = models.base, []
    for index, (work, blobs) in enumerate(zip(works, inputs, strict=True)):
        try:
            sheets.append(_sheet(index, work, blobs, base.description.digest))
        except FaceidError as error:  # tokens that cannot be used fail their own subject only
            yield index, error, {}
    shared = works[0].call.parameters
    assert all(work.call.parameters.get(name) == shared.get(name) for work in works for name in (*_SHARED, "size"))
    current: tuple[str, int, int] = (
        "",
        0,
        0,
    )  # subject whose picture is drawn, pictures done, pictures in all

    def on_step() -> None:
        on_progress(*current)

    pictures = draw(
        base,
        [request for sheet in sheets for request in sheet.requests],
        **{name: shared[name] for name in _SHARED},
        batch=models.settings.batch,
        size=_size(shared),
        on_step=on_step,
    )
    started = time.monotonic()
    for sheet in sheets:
        drawn: list[ShardRow] = []
        constant = 0
        for cell in sheet.todo:
            current = sheet.subject, len(drawn), len(sheet.todo)
            picture = next(pictures)
            constant += int(np.ptp(picture.image)) <= _CONSTANT
            drawn.append(ShardRow.of(cell, picture.image, picture.attention))
            on_progress(sheet.subject, len(drawn), len(sheet.todo))
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
    wanted: Sequence[Cell]
    kept: dict[str, ShardRow]
    todo: Sequence[Cell]
    requests: list[DrawRequest]


def _sheet(index: int, work: Work, blobs: Inputs, base_digest: str) -> _Sheet:
    p = work.call.parameters
    use = IdentityUse(**p.get("use", {}))
    settings = DrawSettings(
        base=work.call.weights["base"],
        **{name: p[name] for name in _SHARED},
        precision=work.call.precision,
        version=work.call.version,
        use=use,
        size=_size(p),
    )
    prompts = tuple(Prompt(i, text, category, {}) for i, text, category in p["prompts"])
    wanted = grid_cells(
        PromptGrid("run", prompts, ""),
        range(p["seeds"]),
        settings,
        subject=p["text"] or work.call.inputs["tokens"],
    )
    kept, todo = missing_cells([blobs[name] for name in blobs if name.startswith(EARLIER)], wanted)
    subject = p["text"]
    if not subject:
        subject = IdentityTokens.from_bytes(blobs["tokens"])
        subject.require_base(base_digest)
    requests = [DrawRequest(subject, cell.prompt.text, cell.seed, use) for cell in todo]
    return _Sheet(index, work.subject, wanted, kept, todo, requests)


def _size(parameters: Mapping[str, Any]) -> tuple[int, int] | None:
    """Height and width that the plan chose; None for the base model's own."""
    height, width = parameters.get("size") or (0, 0)
    return (height, width) if height else None
