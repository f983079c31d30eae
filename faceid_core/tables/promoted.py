"""The promoted runs: one small object that says, for each name of a run, which run downstream readers use."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from ..errors import Conflict, DamagedRecord, ObjectMissing, StoreError
from ..store.keys import canonical_json
from ..store.layout import PROMOTED
from ..store.objects import ObjectStore
from ..store.records import PromotedRecord, parse_record

FORMAT = "faceid-promoted/1"
_ATTEMPTS = 50
_ADVICE = "delete it and promote a run again: faceid promote RUN"


def read_promoted(store: ObjectStore) -> dict[str, str]:
    """Name of a run -> id of the run that is promoted; empty before the first promotion.

    Raises:
        DamagedRecord: the record cannot be understood.
        StoreError: the store fails.
    """
    return {name: row.run_id for name, row in _read(store)[0].runs.items()}


def promote(store: ObjectStore, name: str, run_id: str, *, in_place_of: str | None) -> bool:
    """Let a run be the one that readers of its name use, in one conditional write.

    Args:
        store: any store.
        name: the run's name.
        run_id: the run.
        in_place_of: the run that is promoted at present; None for none.

    Returns:
        Whether the run is promoted now; False if another run has been promoted meanwhile, so that the decision has to
        be made again.

    Raises:
        DamagedRecord: the record cannot be understood.
        StoreError: the store fails.
    """
    for _ in range(_ATTEMPTS):
        record, etag = _read(store)
        present = {key: row.model_dump() for key, row in record.runs.items()}
        now = present[name]["run_id"] if name in present else None
        if now == run_id:
            return True
        if now != in_place_of:
            return False
        when = datetime.now(UTC).isoformat(timespec="seconds")
        present[name] = {"run_id": run_id, "promoted_at": when, "in_place_of": now}
        try:
            store.replace_if_match(PROMOTED, _to_bytes(present), etag)
            return True
        except Conflict:
            continue
    raise StoreError(f"{PROMOTED} in {store.url} keeps changing; promote run {run_id} again")


def _read(store: ObjectStore) -> tuple[PromotedRecord, str | None]:
    try:
        data, etag = store.get_with_etag(PROMOTED)
    except ObjectMissing:
        return PromotedRecord(format=FORMAT), None
    record = parse_record(data, PromotedRecord, name=PROMOTED, url=store.url, advice=_ADVICE)
    if record.format != FORMAT:
        raise DamagedRecord(PROMOTED, store.url, f"its format is {record.format[:40]!r}", _ADVICE)
    return record, etag


def _to_bytes(runs: Mapping[str, Mapping]) -> bytes:
    return canonical_json({"format": FORMAT, "runs": dict(runs)})
