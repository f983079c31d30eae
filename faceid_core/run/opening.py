"""Opening a run: store, secret, lease, manifest, plan; everything that can refuse a run does so here."""

from __future__ import annotations

import datetime as dt
import secrets
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from faceid_core.config import NightlyConfig, cluster_address
from faceid_core.errors import ConfigurationError, PhotosMissing, StoreRefused, as_configuration
from faceid_core.identity import Identity
from faceid_core.outcomes import Account, Outcome
from faceid_core.plan.preflight import require_fit
from faceid_core.run.learned import require_no_teaching
from faceid_core.run.lookup import LOOKUP_THREADS
from faceid_core.run.people import admit, common_subjects, names_of_ceiling, read_people
from faceid_core.run.photo_source import PhotoSource
from faceid_core.run.reporter import Reporter
from faceid_core.run.runs import new_run_id, write_request, write_status
from faceid_core.run.state import Run
from faceid_core.run.waiting import PatientWait
from faceid_core.stages.plan import Plan
from faceid_core.stages.work import Subject
from faceid_core.store import ObjectStore, RunLease, erased_people, initialize, open_store
from faceid_core.store.layout import STORE, check_secret, exists, read_layout
from faceid_core.store.s3_address import refuse_unfit_for_tables
from faceid_core.store.secret import IdentitySecret


@as_configuration()
def open_run(
    config: NightlyConfig,
    reporter: Reporter,
    *,
    run_suffix: str | None = None,
    scheduled: dt.datetime | None = None,
    dry: bool = False,
    people: Callable[[NightlyConfig], list[Identity]] = read_people,
    learned_only: bool = False,
    waiting: Callable[[str], None] | None = None,
) -> Run:
    """Take the store's lease, admit everybody and make the plan; no model is loaded and nothing is computed.

    The run holds the lease until `drive` ends it, or until `Run.release` by whoever does not drive it.

    Args:
        config: The parsed configuration.
        reporter: Who listens.
        run_suffix: Eight characters that stay the same over retries of one flow run.
        scheduled: When the run was to start; its date in the schedule's timezone is the run's date.
        dry: Take no lease and leave no record of the run.
        people: Says who takes part; asked again after a wait for the lease.
        learned_only: Teach nobody: draw and score those whose tokens the store holds.
        waiting: Told for whom the run waits while another one holds the store; None tells the reporter.

    Raises:
        ConfigurationError: the run cannot start; nothing was changed.
        StoreBusy: another run holds the store, and `run.on_busy` says not to wait, or not for so long; nothing was
            changed.
    """
    asked = dt.datetime.now(dt.UTC)
    run_date = (scheduled or asked).astimezone(config.run.zone).date()
    run_id = new_run_id(config, run_date, run_suffix)
    if learned_only:
        require_no_teaching(config)
    plan = Plan.from_config(config)
    # A manifest with problems, and texts that the model cannot read, are told now, not after a run of waiting.
    asked_for = people(config)
    require_fit(plan, asked_for, names_of_ceiling(config))
    store, secret = open_store_checked(config, dry=dry, say=reporter.note)
    patience = PatientWait(config, store.url, scheduled or asked, waiting or reporter.note)
    lease = None if dry else RunLease.acquire(store, run_id, on_busy=config.run.on_busy, waiting=patience)
    try:
        # Read after the wait: a consent withdrawn or a photo exchanged meanwhile counts.
        identities = people(config)
        if identities != asked_for:
            require_fit(plan, identities, names_of_ceiling(config))
        photos = PhotoSource(config.s3.settings(), config.faces.max_photo_bytes)
        subjects, accounts, by_key = _admit_all(
            identities, store, secret, photos, run_date, require_consent=config.run.require_consent
        )
        for subject in common_subjects(config, list(subjects.values())):
            subjects[subject.name] = subject
        run = Run(
            run_id=run_id,
            run_date=run_date,
            scheduled_at=scheduled or asked,
            started_at=dt.datetime.now(dt.UTC),
            config=config,
            plan=plan,
            store=store,
            secret=secret,
            subjects=subjects,
            accounts=accounts,
            identities=by_key,
            photos=photos,
            reporter=reporter,
            lease=lease,
            learned_only=learned_only,
        )
        if not dry:
            write_request(run)
            write_status(run, "running")
    except BaseException:
        if lease is not None:
            lease.release()
        raise
    return run


@as_configuration()
def open_store_checked(
    config: NightlyConfig, *, dry: bool = False, say: Callable[[str], None] | None = None
) -> tuple[ObjectStore, IdentitySecret]:
    """Open the store and make sure that it belongs to this secret; a dry look makes neither store nor secret.

    Args:
        config: the parsed configuration.
        dry: only look.
        say: told to which secret a new store that others share is bound.

    Raises:
        ConfigurationError: the store exists, and its secret is not here; or it would be new and shared, and there is
            no secret; it refuses us; its tables would lie elsewhere.
        SecretMismatch: the store was made with another secret.
    """
    store = open_store(config.store, config.s3.settings())
    refuse_unfit_for_tables(store)
    there = exists(store)
    if dry:
        return store, _secret_for_a_look(config, store, there)
    shared = is_shared(config)
    secret = IdentitySecret.load(config.store, make=not there, shared=shared)
    initialize(store, secret)
    _probe_tables(store)
    if shared and not there and say is not None:
        say(
            f"{config.store} is new and belongs to the identity secret from {secret.source} (fingerprint "
            f"{secret.fingerprint}); keep a copy of it, without which the store cannot be used"
        )
    return store, secret


def is_shared(config: NightlyConfig) -> bool:
    """Whether other machines use the store as well: one on S3, or one that the nodes of a running Ray cluster reach."""
    joins = config.execution.executor == "ray" and any(cluster_address(config.execution.ray_address))
    return config.store.startswith("s3://") or joins


def _probe_tables(store: ObjectStore) -> None:
    """On S3 the tables go through a library of its own: that it writes to the same place is known before the work."""
    if hasattr(store, "address"):
        from faceid_core.tables.write import DeltaPlace

        DeltaPlace(store).probe("runs")


def _secret_for_a_look(config: NightlyConfig, store: ObjectStore, exists: bool) -> IdentitySecret:
    if exists:
        secret = IdentitySecret.load(config.store, make=False)
        check_secret(store, read_layout(store), secret)
        return secret
    try:
        return IdentitySecret.load(config.store, make=False)
    except ConfigurationError:
        # Where no store is there is nothing to look up: any keys will do, and none may be left behind.
        return IdentitySecret(secrets.token_bytes(32), "nothing but this look")


@as_configuration()
def look_at_people(
    config: NightlyConfig, plan: Plan, today: dt.date
) -> tuple[ObjectStore | None, dict[str, Subject], dict[str, Account], dict[str, Identity]]:
    """Whoever a run of today would have before it, as `open_run` finds them; nothing is written.

    Returns:
        The store, or None where there is none yet; subjects and accounts by name; the manifest's rows by key.

    Raises:
        ConfigurationError: the run could not start.
        SecretMismatch: the store was made with another secret.
    """
    identities = read_people(config)
    require_fit(plan, identities, names_of_ceiling(config))
    store, secret = open_store_checked(config, dry=True)
    photos = PhotoSource(config.s3.settings(), config.faces.max_photo_bytes)
    subjects, accounts, by_key = _admit_all(
        identities, store, secret, photos, today, require_consent=config.run.require_consent
    )
    for subject in common_subjects(config, list(subjects.values())):
        subjects[subject.name] = subject
    return (store if store.head(STORE) else None), subjects, accounts, by_key


def _admit_all(identities, store, secret, photos, today, *, require_consent):
    erased = erased_people(store)

    def one(identity):
        return admit(
            identity, secret, erased=erased, source=photos, today=today, require_consent=require_consent
        )

    subjects: dict[str, Subject] = {}
    accounts: dict[str, Account] = {}
    by_key = {}
    with ThreadPoolExecutor(LOOKUP_THREADS) as threads:
        for identity, (subject, account) in zip(identities, threads.map(one, identities), strict=True):
            subjects[subject.name], accounts[subject.name] = subject, account
            by_key[subject.name] = identity
    _count_same_photos(subjects, accounts)
    _refuse_if_all_are_missing(accounts, by_key)
    return subjects, accounts, by_key


def _count_same_photos(subjects: Mapping[str, Subject], accounts: Mapping[str, Account]) -> None:
    """Enter how many others have a person's photo: one photo under two names is a slip more often than a wish."""
    found = Counter(subject.photo_digest for subject in subjects.values())
    for name, account in accounts.items():
        digest = subjects[name].photo_digest
        account.same_photo = found[digest] - 1 if digest else None


def _refuse_if_all_are_missing(accounts: dict[str, Account], by_key: dict[str, Identity]) -> None:
    """Nobody's photo is there: a mount or a bucket is gone, and telling everybody to send another one helps nobody."""
    looked_for = [account for account in accounts.values() if account.outcome is not Outcome.REFUSED]
    if looked_for and all(account.reason == StoreRefused.__name__ for account in looked_for):
        raise ConfigurationError(
            f"none of the manifest's {len(looked_for)} photos may be read. Of the first: {looked_for[0].message}"
        )
    if len(looked_for) > 1 and all(account.reason == "photo_missing" for account in looked_for):
        raise PhotosMissing(
            f"none of the manifest's {len(looked_for)} photos is where it says; check that the disk is mounted or the "
            f"bucket exists. Of the first: {looked_for[0].message}",
            first=by_key[looked_for[0].identity_key].photo,
        )
