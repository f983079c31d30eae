"""A contact sheet of a run's people: in each row a photo crop, then the pictures of the same prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from faceid_core.errors import ConfigurationError
from faceid_core.evaluate.shards import read_shard
from faceid_core.report.contact_sheet import contact_sheet
from faceid_core.report.synthetic_mark import SyntheticMark
from faceid_core.stages.files import read_png
from faceid_core.stages.planning.generate import SHARD
from faceid_core.store import Manifest, ObjectStore, StageCache, is_erased
from faceid_core.weights.required import BASE


def people_sheet(
    store: ObjectStore, record: Mapping, *, prompts: Sequence[str], people: int, seed: int
) -> bytes:
    """Draw the sheet from a run's status record.

    Args:
        store: The run's store.
        record: The run's status, which holds the stage keys of each person.
        prompts: Prompt ids; empty takes the first prompt of each category.
        people: Rows at most.
        seed: Which picture of each prompt.

    Returns:
        A PNG file.

    Raises:
        ConfigurationError: no person of the run has pictures, or a prompt is not among them.
    """
    rows, columns, base = [], [], ""
    for person in record["people"]:
        keys = person["stage_keys"]
        if "generate" not in keys or len(rows) == people:
            continue
        if is_erased(store, person["identity_key"]):
            continue  # erased since
        cache = StageCache(store, f"identities/{person['identity_key']}")
        drawn = _manifest(cache, "generate", keys)
        base = drawn.content["preimage"]["weights"][BASE]
        shard = read_shard(cache.read(drawn, SHARD))
        pictures = {row.prompt_id: row for row in shard if row.seed == seed}
        chosen = (
            list(prompts) or list({row.category: row.prompt_id for row in reversed(shard)}.values())[::-1]
        )
        unknown = [name for name in chosen if name not in pictures]
        if unknown:
            raise ConfigurationError(
                f"the run has no picture of prompt {unknown[0]!r} with seed {seed}; "
                f"its prompts are {', '.join(pictures)}"
            )
        crop = read_png(cache.read(_manifest(cache, "detect", keys), "crop.png"))
        columns = ["the photo", *(pictures[name].prompt.removeprefix("a photo of ") for name in chosen)]
        rows.append(("", [crop, *(pictures[name].image for name in chosen)]))
    if not rows:
        raise ConfigurationError(f"run {record['run_id']} has no finished people to show")
    mark = SyntheticMark(base, record["run_id"], "compositeWithTrainedAlgorithmicMedia")
    return contact_sheet(rows, columns, label_pixels=0, mark=mark)


def _manifest(cache: StageCache, stage: str, keys: Mapping[str, str]) -> Manifest:
    manifest = cache.read_manifest(stage, keys[stage])
    if manifest is None:
        raise ConfigurationError(
            f"the result of stage {stage} is gone from the store; run again to compute it again"
        )
    return manifest
