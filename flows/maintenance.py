"""Flows that maintain a store: erasure of a person, or of people without consent, and collection of garbage."""

# No postponed annotations here: Prefect makes the form from them.

from collections.abc import Iterable

from prefect import flow, get_run_logger
from prefect.artifacts import create_table_artifact
from prefect.states import Completed, Failed, State
from pydantic import Field

from faceid_core.config import NightlyConfig, S3Config
from faceid_core.config.section import Section
from faceid_core.errors import ConfigurationError, without_people
from faceid_core.identity import ID_PATTERN
from faceid_core.run.store_access import open_existing, open_with_secret
from faceid_core.store.tombstone import COMPLETE
from faceid_core.upkeep.erase import Erasures, finish_erasures
from faceid_core.upkeep.erase import erase as erase_person
from faceid_core.upkeep.expired import erase_expired, expired_consents
from faceid_core.upkeep.gc import collect
from flows.form import FormConfig

_SECONDS_PER_DAY = 86_400.0


class StorePlace(Section):
    """The store."""

    store: str = Field(
        "work/store",
        min_length=1,
        description="Root of the store: a folder, file:///… or s3://bucket/prefix.",
    )
    s3: S3Config = Field(default_factory=S3Config, description="S3 connection.")


class ErasureRequest(Section):
    """The person to erase."""

    identity_id: str = Field(
        pattern=f"^{ID_PATTERN}$",
        description="Identity id, as in the manifest. It is kept with the run's parameters in Prefect: delete the "
        "flow run there when the receipt is filed.",
    )
    confirm: str = Field(description="The same id once more: what is erased cannot be brought back.")
    wait: bool = Field(
        True,
        description="Wait for the second sweep, which is due when no run can still hold the person's data; "
        "otherwise the next collection of garbage does it.",
    )


class CollectionRequest(Section):
    """What may be removed."""

    delete: bool = Field(False, description="Remove what is found. Without it the run only counts it.")
    grace_days: float = Field(
        7.0, ge=1.0, le=3650.0, description="Nothing younger than so many days is ever removed."
    )
    unused_days: float | None = Field(
        None,
        ge=1.0,
        le=3650.0,
        description="Remove results, too, that no run of so many days used and no pin keeps. Empty: keep all results.",
    )


@flow(name="erase", flow_run_name="erase", persist_result=False)
def erase(person: ErasureRequest, place: StorePlace) -> State:
    """Erase a person for good: tombstone, every object with its versions, every row, and a receipt."""
    return _erase(person, place)


def _erase(person: ErasureRequest, place: StorePlace) -> State:
    """Erase, and create an artifact of the receipt, which names the person by key."""
    if person.confirm != person.identity_id:
        return Failed(message="confirm is not the identity id; nothing was erased")
    try:
        store, secret = open_with_secret(_config(place))
        receipt = erase_person(store, secret, person.identity_id, wait=person.wait, report=get_run_logger().info)
    except ConfigurationError as error:
        return Failed(message=str(error))
    rows = [{"what": "objects and versions", "removed": receipt.objects}]
    rows += [{"what": f"rows of {table}", "removed": count} for table, count in receipt.rows.items()]
    about = f"{receipt.identity_key} erased at {receipt.erased_at}: {receipt.state}"
    if receipt.sweep_again_at:
        about += f", second sweep due at {receipt.sweep_again_at}"
    if not receipt.objects and not receipt.rows:
        about += ". The store held nothing of this id: check its spelling"
    create_table_artifact(table=rows, key="receipt", description=about)
    if person.wait and receipt.state != COMPLETE:
        # What comes before the first semicolon is sent to others (infra/prefect/automations).
        return Failed(message=f"an erasure is not complete; {about}; the log says why")
    return Completed(message=about)


@flow(name="erase-expired-consent", flow_run_name="erase-expired-consent", persist_result=False)
def erase_expired_consent(config: FormConfig) -> State:
    """List people whose consent has ended; erase those for whom that is longer ago than consent.erase_after_days."""
    return _erase_expired(config)


def _erase_expired(config: NightlyConfig) -> State:
    """List and erase, and create an artifact with a row for each person, by key."""
    try:
        store, secret = open_with_secret(config)
        found = expired_consents(config, store, secret)
        erased = erase_expired(config, store, secret, found, report=get_run_logger().info)
    except ConfigurationError as error:
        return Failed(message=without_people(error))
    states: dict[str, str] = {receipt.identity_key: receipt.state for receipt in erased.receipts}
    states |= dict.fromkeys(erased.unfinished, "not complete")
    rows = [
        {
            "identity": each.identity_key,
            "days since the consent": each.days,
            "erasure": states.get(each.identity_key, "kept"),
        }
        for each in found
    ]
    grace = config.consent.erase_after_days
    rule = "consent.erase_after_days is not set" if grace is None else f"{grace} days of grace"
    about = f"{len(found)} consents have ended, {len(erased.receipts)} people erased ({rule})"
    create_table_artifact(table=rows, key="expired-consents", description=about)
    if erased.unfinished:
        return Failed(message=f"{about}; {_not_complete(erased.unfinished)}")
    return Completed(message=about)


def _not_complete(unfinished: Iterable[str]) -> str:
    return f"the erasure of {', '.join(sorted(unfinished))} is not complete: the log says why"


@flow(name="collect-garbage", flow_run_name="collect-garbage", persist_result=False)
def collect_garbage(what: CollectionRequest, place: StorePlace) -> State:
    """Find what nothing in the store refers to, and remove it if asked to; finish erasures that are due."""
    return _collect(what, place)


def _collect(what: CollectionRequest, place: StorePlace) -> State:
    """Collect, and create a table of what was found; only with `delete` are erasures finished, too."""
    report = get_run_logger().info
    try:
        store = open_existing(_config(place))
    except ConfigurationError as error:
        return Failed(message=str(error))
    erasures = finish_erasures(store, report=report) if what.delete else Erasures([], frozenset())
    found = collect(
        store, what.grace_days * _SECONDS_PER_DAY, what.delete, unused_days=what.unused_days, report=report
    )
    rows = [
        {"kind": kind, "objects": count, "bytes": found.bytes[kind]} for kind, count in found.counts.items()
    ]
    verb = "removed" if found.deleted else "to remove (nothing was: delete is off)"
    about = (
        f"{found.objects} objects, {sum(found.bytes.values())} bytes {verb}; {found.kept_young} too young, "
        f"{found.scopes_in_use} scopes in use by a run, {found.scopes_in_doubt} in doubt (faceid verify), "
        f"{found.compacted} small files of the tables merged, "
        f"{len(erasures.receipts)} erasures continued, {len(found.damaged)} damaged records"
    )
    create_table_artifact(table=rows, key="garbage", description=about)
    if erasures.unfinished:
        return Failed(message=f"{about}; {_not_complete(erasures.unfinished)}")
    return Completed(message=about)


def _config(place: StorePlace) -> NightlyConfig:
    return NightlyConfig(store=place.store, s3=place.s3)
