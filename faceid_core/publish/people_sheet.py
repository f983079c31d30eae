"""A contact sheet of a run's people: in each row a photo crop, then pictures of the same prompts with scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from faceid_core.errors import ConfigurationError
from faceid_core.evaluate.shards import read_shard
from faceid_core.report.contact_sheet import Cell, contact_sheet
from faceid_core.report.synthetic_mark import SyntheticMark
from faceid_core.stages.files import read_png
from faceid_core.stages.planning.generate import SHARD
from faceid_core.store import Manifest, ObjectStore, StageCache, erased_people
from faceid_core.tables import Tables
from faceid_core.weights.required import BASE


def people_sheet(
    store: ObjectStore,
    record: Mapping,
    *,
    prompts: Sequence[str],
    people: int,
    choose: str,
    identity_keys: Sequence[str],
    names: bool,
    seed: int,
) -> bytes:
    """Draw the sheet from a run's status record, with names and scores from the tables where they have the run.

    Args:
        store: The run's store.
        record: The run's status, which holds the stage keys of each person.
        prompts: Prompt ids; empty takes the first prompt of each category.
        people: Rows at most.
        choose: `extremes` (half worst, half best by normalized identity), `worst`, `best`, or `first`.
        identity_keys: Whom to show; empty chooses.
        names: Label rows with identity ids where the tables have them, else with the first digits of keys.
        seed: Which picture of each prompt.

    Returns:
        A PNG file.

    Raises:
        ConfigurationError: no person of the run has pictures, or a person or a prompt is not among them.
        StoreError: the tables cannot be read.
    """
    known, erased = _known(store, record["run_id"]), erased_people(store)
    shown = [
        each
        for each in record["people"]
        if "generate" in each["stage_keys"] and each["identity_key"] not in erased
    ]
    shown = _chosen(shown, known, identity_keys, choose, people, record["run_id"])
    scores = _scores(store, record["run_id"], [each["identity_key"] for each in shown], seed)
    rows, columns, base = [], [], ""
    for person in shown:
        who, keys = person["identity_key"], person["stage_keys"]
        cache = StageCache(store, f"identities/{who}")
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
        cells = [
            Cell(
                pictures[name].image,
                _words(scores.get((who, name, "identity"))),
                is_marked=scores.get((who, name, "concepts")) == 0,
            )
            for name in chosen
        ]
        rows.append((_label(person, known.get(who, {}), names=names), [crop, *cells]))
    mark = SyntheticMark(base, record["run_id"], "compositeWithTrainedAlgorithmicMedia")
    return contact_sheet(rows, columns, title=f"run {record['run_id']}, seed {seed}", mark=mark)


def _known(store: ObjectStore, run_id: str) -> dict[str, dict]:
    """Identity key -> id and likeness, as the tables have them; empty for a run that they do not have."""
    rows = Tables(store).query(
        "SELECT identity_key, identity_id, normalized_identity, "
        # Without named people nothing is normalized.
        "coalesce(normalized_identity, identity_similarity) AS likeness FROM people WHERE run_id = ?",
        [run_id],
    )
    return {row["identity_key"]: row for row in rows.to_pylist()}


def _scores(
    store: ObjectStore, run_id: str, people: Sequence[str], seed: int
) -> dict[tuple[str, str, str], float | None]:
    """(identity key, prompt id, metric) -> value of identity and concepts."""
    rows = Tables(store).query(
        "SELECT identity_key, prompt_id, metric, value FROM scores WHERE run_id = $run AND seed = $seed "
        "AND list_contains($keys::VARCHAR[], identity_key) AND metric IN ('identity', 'concepts')",
        {"run": run_id, "seed": seed, "keys": list(people)},
    )
    return {(row["identity_key"], row["prompt_id"], row["metric"]): row["value"] for row in rows.to_pylist()}


def _chosen(
    people: Sequence[Mapping], known: Mapping[str, Mapping], wanted: Sequence[str], choose: str, most: int, run_id: str
) -> list[Mapping]:
    """The people of the sheet, in its order."""
    if wanted:
        by_key = {each["identity_key"]: each for each in people}
        if absent := [key for key in wanted if key not in by_key]:
            raise ConfigurationError(f"run {run_id} has no pictures of {', '.join(absent)} (faceid key IDENTITY)")
        return [by_key[key] for key in wanted]
    if not people:
        raise ConfigurationError(f"run {run_id} has no finished people to show")

    def likeness(person: Mapping) -> float:
        value = known.get(person["identity_key"], {}).get("likeness")
        return float("inf") if value is None else value

    if choose == "first" or (len(people) <= most and choose == "extremes"):
        return list(people[:most])
    measured = sorted((each for each in people if likeness(each) < float("inf")), key=likeness) or list(people)
    if choose == "worst":
        return measured[:most]
    if choose == "best":
        return measured[::-1][:most]
    worst = measured[: most - most // 2]
    return worst + measured[max(len(worst), len(measured) - most // 2) :]


def _words(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _label(person: Mapping, row: Mapping, *, names: bool) -> str:
    """Who it is, the outcome, and the likeness."""
    who = row.get("identity_id") if names else None
    likeness = row.get("normalized_identity")
    words = [who or person["identity_key"][:12], "weak" if person.get("weak") else ""]
    words.append("" if likeness is None else f"{100 * likeness:.0f} % likeness")
    return " ".join(filter(None, words))


def _manifest(cache: StageCache, stage: str, keys: Mapping[str, str]) -> Manifest:
    manifest = cache.read_manifest(stage, keys[stage])
    if manifest is None:
        raise ConfigurationError(
            f"the result of stage {stage} is gone from the store; run again to compute it again"
        )
    return manifest
