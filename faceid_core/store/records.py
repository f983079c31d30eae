"""Records of a store, held to their shape where they are read: an object may be cut, edited by hand, or forged."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, RootModel, StringConstraints, ValidationError

from ..errors import DamagedRecord
from .objects import ObjectStore

# What a signed 64-bit integer holds: libraries behind us take no larger version or count.
_MOST = 2**63 - 1
Count = Annotated[int, Field(ge=0, le=_MOST)]
Seconds = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}\z")]
PersonKey = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}\z")]

Model = TypeVar("Model", bound=BaseModel)


class Record(BaseModel):
    """Base of every record: types are taken as they stand, and fields of a later version are kept."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow", allow_inf_nan=False)

    def as_dict(self) -> dict[str, Any]:
        """Its fields, those of a later version among them."""
        return self.model_dump()


class StoreRecord(Record):
    """`store.json`: what the store was made with."""

    layout_version: Count
    secret_fingerprint: str


class RequestRecord(Record):
    """A run's `request.json`: what was asked."""

    run_id: str
    started_at: str
    identities: list[str] | None = None
    config: dict[str, Any] = {}


class PersonRecord(Record):
    """One person's outcome report in a run's `status.json`."""

    identity_key: PersonKey
    outcome: str | None = None
    stage: str | None = None
    reason: str | None = None
    message: str | None = None
    value: float | None = None
    threshold: float | None = None
    attempts: Count = 0
    seconds: Seconds = 0.0
    stage_keys: dict[str, Digest] = {}


class StatusRecord(Record):
    """A run's `status.json`: how far it is, and every identity's outcome report."""

    run_id: str = ""
    state: str
    at: str
    outcomes: dict[str, Count] = {}
    common_failures: dict[str, str] = {}
    people: list[PersonRecord]


class TableRecord(Record):
    """A table in the catalog: the folder of its major version, and its Delta version."""

    folder: str
    version: Count


class CatalogRecord(Record):
    """`catalog/current.json`: the version of every table that readers see."""

    format: str
    tables: dict[str, TableRecord]
    sequence: Count
    run_id: str
    published_at: str


class PromotedRun(Record):
    """A promoted run: when it was, and in place of which run."""

    run_id: str
    promoted_at: str
    in_place_of: str | None = None


class PromotedRecord(Record):
    """`catalog/promoted.json`: name of a run -> the run that downstream readers use."""

    format: str
    runs: dict[str, PromotedRun] = {}


class PagesRecord(RootModel[dict[PersonKey, str]]):
    """A run's `pages.json`: identity key -> page."""

    model_config = ConfigDict(strict=True, frozen=True)


def read_record(store: ObjectStore, name: str, model: type[Model], advice: str) -> Model:
    """An object of a store as a record.

    Args:
        store: any store.
        name: the object's.
        model: what it has to be.
        advice: what to do about one that is damaged.

    Raises:
        ObjectMissing: there is none.
        DamagedRecord: it is something else.
    """
    return parse_record(store.get(name), model, name=name, url=store.url, advice=advice)


def parse_record(data: bytes, model: type[Model], *, name: str, url: str, advice: str) -> Model:
    """Bytes that were read as a record. Raises DamagedRecord."""
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise DamagedRecord(name, url, _in_a_line(error), advice) from None


def _in_a_line(error: ValidationError) -> str:
    """The first thing that is wrong. Not what stands there instead: it may be of a person."""
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    place = ".".join(str(part)[:40] for part in first["loc"])
    return f"{place}: {first['msg']}" if place else first["msg"]
