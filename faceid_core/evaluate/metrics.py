"""The metrics: each turns pictures into one value per picture, None where it has nothing to say.

Each metric is a stage of its own with its own version: adding one draws nothing and scores nothing else.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .face_masks import face_masks, outside_share
from .grid import Prompt
from .leakage import judge, look_at
from .pictures import Pictures, embed_reference, has_eyes
from .protocols import NamedConcepts
from .scorers import Scorers
from .shards import ShardRow

_SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("seed", pa.int64()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("detail", pa.string()),
    ],
    metadata={"faceid.scores": "1"},
)


@dataclass(frozen=True)
class MetricRow:
    """One value of one picture; `value` None means not measurable, and `detail` then says why."""

    prompt_id: str
    seed: int
    metric: str
    value: float | None
    detail: str = ""


@dataclass(frozen=True)
class Context:
    """What a metric knows besides the pictures: the reference photo, the class word, the prompts by id."""

    reference: np.ndarray | None
    class_word: str
    prompts: Mapping[str, Prompt]


def identity(pictures: Pictures, context: Context) -> list[MetricRow]:
    """Cosine of the face in the picture and the face in the reference photo."""
    if context.reference is None:
        raise ValueError("the identity metric compares with a reference photo; pass `reference`")
    target = embed_reference(pictures.scorers, context.reference)
    if target is None:
        return [_row(row, "identity", None, "no face in the reference photo") for row in pictures.rows]
    found = []
    for row, face, vector in zip(pictures.rows, pictures.faces, pictures.embeddings, strict=True):
        if np.isnan(vector).any():
            found.append(_row(row, "identity", None, "no face" if face is None else "no eyes"))
        else:
            found.append(_row(row, "identity", float(np.clip(vector @ target, -1, 1))))
    return found


def detection(pictures: Pictures, context: Context) -> list[MetricRow]:
    """1 if a face was found in the picture, else 0."""
    return [
        _row(row, "detection", float(face is not None))
        for row, face in zip(pictures.rows, pictures.faces, strict=True)
    ]


def concepts(pictures: Pictures, context: Context) -> list[MetricRow]:
    """1 if everything that the prompt asks for is named in the picture, else 0.

    Rows named `concepts` hold that; rows named `concepts:scene` and so on hold it for each kind that the
    prompt asks for, with what was named as their detail.
    """
    if pictures.named is None:
        return [_row(row, "concepts", None, "no scorer names concepts") for row in pictures.rows]
    found = []
    for row, seen in zip(pictures.rows, pictures.named, strict=True):
        expected = context.prompts[row.prompt_id].expected
        kinds = {
            kind: (set(names) <= _shown(seen, kind), ", ".join(sorted(_shown(seen, kind))))
            for kind, names in expected.items()
        }
        if not kinds:
            found.append(_row(row, "concepts", None, "the prompt expects nothing"))
            continue
        missed = ", ".join(kind for kind, (obeyed, _) in kinds.items() if not obeyed)
        found.append(_row(row, "concepts", float(not missed), missed and f"missed {missed}"))
        found += [
            _row(row, f"concepts:{kind}", float(obeyed), shown) for kind, (obeyed, shown) in kinds.items()
        ]
    return found


def _shown(seen: NamedConcepts, kind: str) -> set[str]:
    """The concepts of one kind that a picture shows."""
    if kind == "attribute":
        return set(seen.attributes)
    name = {"scene": seen.scene, "action": seen.held, "clothing": seen.clothes}[kind]
    return set() if name is None else {name}


def image_text(pictures: Pictures, context: Context) -> list[MetricRow]:
    """The picture against its prompt, with the class word for `V*`."""
    if not pictures.rows:
        return []
    texts = [context.prompts[row.prompt_id].for_subject(context.class_word) for row in pictures.rows]
    values = pictures.scorers.image_text.score(pictures.images, texts)
    return [_row(row, "image_text", float(value)) for row, value in zip(pictures.rows, values, strict=True)]


def attention(pictures: Pictures, context: Context) -> list[MetricRow]:
    """Share of the placeholder's attention that lies outside the face and hair of the picture."""
    measurable = [
        (index, image, face)
        for index, (row, image, face) in enumerate(
            zip(pictures.rows, pictures.images, pictures.faces, strict=True)
        )
        if row.attention is not None and face is not None and has_eyes(face)
    ]
    masks = face_masks([(image, face) for _, image, face in measurable], pictures.scorers)
    shares = {
        index: outside_share(pictures.rows[index].attention, mask)
        for (index, _, _), mask in zip(measurable, masks, strict=True)
    }
    found = []
    for index, row in enumerate(pictures.rows):
        value = shares.get(index)
        if row.attention is None:
            why = "no attention was recorded"
        elif index not in shares:
            why = "no face"
        else:
            why = "" if value is not None else "the attention is empty"
        found.append(_row(row, "attention", value, why))
    return found


def leakage(pictures: Pictures, context: Context) -> list[MetricRow]:
    """What of the photo came back unasked: the mean of its parts, then `leakage:clothes` and so on, 1 or 0."""
    if context.reference is None:
        raise ValueError("the leakage metric compares with a reference photo; pass `reference`")
    photo = look_at(context.reference, pictures.scorers)
    prompts = [context.prompts[row.prompt_id] for row in pictures.rows]
    return [
        _row(row, name, value, detail)
        for row, judged in zip(pictures.rows, judge(pictures, photo, prompts), strict=True)
        for name, (value, detail) in judged.items()
    ]


@dataclass(frozen=True)
class Metric:
    """A metric as a stage.

    Args:
        version: raised when the same pictures would get other values.
        function: see the functions of this module.
        roles: the models whose weights settle the values, as `models.lock` names them.
        needs_reference: whether the values belong to a reference photo as well as to the pictures.
        detector_of_photos: whether faces in pictures of photographs' models are found by the detector that also
            finds them in people's photos, instead of the scorers' own. The role `detector` then means that one.
    """

    version: int
    function: Callable[[Pictures, Context], list[MetricRow]]
    roles: tuple[str, ...]
    needs_reference: bool = False
    detector_of_photos: bool = False


METRICS: dict[str, Metric] = {
    "identity": Metric(1, identity, ("detector", "recogniser"), needs_reference=True),
    "detection": Metric(1, detection, ("detector",), detector_of_photos=True),
    "concepts": Metric(1, concepts, ("image_text",)),
    "image_text": Metric(1, image_text, ("image_text",)),
    "attention": Metric(1, attention, ("detector", "parser")),
    "leakage": Metric(1, leakage, ("detector", "parser", "image_text"), needs_reference=True),
}


def score(
    metric: str,
    rows: Sequence[ShardRow] | Pictures,
    *,
    prompts: Sequence[Prompt],
    reference: np.ndarray | None = None,
    class_word: str,
    scorers: Scorers,
) -> list[MetricRow]:
    """One metric over the pictures of one subject.

    Args:
        metric: a name of `METRICS`.
        rows: of one shard, or `Pictures` made of them, which saves work between metrics.
        prompts: of the grid that drew them.
        reference: the reference photo uint8 [h, w, 3], for metrics that need one.
        class_word: stands for `V*` in the texts.
        scorers: of one backend.

    Returns:
        Rows in the order of the pictures.

    Raises:
        ValueError: for an unknown metric, a picture whose prompt is not given, or an absent reference.
    """
    if metric not in METRICS:
        raise ValueError(f"metric {metric!r} is unknown; use one of: {', '.join(METRICS)}")
    pictures = rows if isinstance(rows, Pictures) else Pictures(rows, scorers)
    by_id = {prompt.id: prompt for prompt in prompts}
    strange = sorted({row.prompt_id for row in pictures.rows} - set(by_id))
    if strange:
        raise ValueError(f"the pictures belong to prompts that were not given: {', '.join(strange)}")
    return METRICS[metric].function(pictures, Context(reference, class_word, by_id))


def _row(row: ShardRow, metric: str, value: float | None, detail: str = "") -> MetricRow:
    # Rounded, so that the last bits of a matrix product do not make two equal scores differ.
    rounded = None if value is None else round(value, 6)
    return MetricRow(row.prompt_id, row.seed, metric, rounded, detail)


def write_scores(rows: Sequence[MetricRow]) -> bytes:
    """Parquet bytes of metric rows; the same rows always give the same bytes."""
    table = pa.Table.from_pylist([row.__dict__ for row in rows], schema=_SCHEMA)
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def read_scores(data: bytes) -> list[MetricRow]:
    """The rows of `write_scores`."""
    # A night reads thousands of these: as a dataset each would take three times as long.
    table = pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)
    if (table.schema.metadata or {}).get(b"faceid.scores") != b"1":
        raise ValueError("these bytes are not scores of format 1")
    columns = [table.column(field.name).to_pylist() for field in fields(MetricRow)]
    return [MetricRow(*values) for values in zip(*columns, strict=True)]
