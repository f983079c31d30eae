"""Admission: keys, consent, erasure and photo digests of a run's identities; the subjects of floor and ceiling."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from faceid_core.config import NightlyConfig
from faceid_core.errors import ConfigurationError, PhotoRejected, PhotosMissing, StoreError, StoreRefused
from faceid_core.identity import Identity
from faceid_core.outcomes import MOST_NAMED, Outcome, OutcomeReport, some_of
from faceid_core.run.photo_source import PhotoSource, mask_of
from faceid_core.run.state import STORE_THREADS
from faceid_core.stages.work import COMMON, Subject
from faceid_core.store import ObjectStore, erased_people
from faceid_core.store.keys import sha256_hex
from faceid_core.store.secret import IdentitySecret
from faceid_core.weights.describe import MINIATURE

ERASED = "erased"  # why an identity with a tombstone is refused


def admit(
    identity: Identity,
    secret: IdentitySecret,
    *,
    erased: Collection[str],
    source: PhotoSource,
    today: dt.date,
    require_consent: bool,
) -> tuple[Subject, OutcomeReport]:
    """Give an identity a key and an outcome report, refuse one that may not run, and digest its photo.

    The photo goes into the store when detection needs it (`execute.put_photo`), not here.

    Args:
        erased: keys of people whose tombstone stands.
    """
    key = secret.identity_key(identity.identity_id)
    subject = Subject(
        kind="person",
        name=key,
        scope=f"identities/{key}",
        class_word=identity.class_word,
        identity_id=identity.identity_id,
        face_box=identity.face_box,
        subject_box=identity.subject_box,
    )
    outcome_report = OutcomeReport(identity.identity_id, key)
    if key in erased:
        outcome_report.close(
            Outcome.REFUSED,
            stage="admit",
            reason=ERASED,
            message="this person was erased; take the row out of the manifest; on a new consent enrol under a new id",
        )
    elif identity.consent_expired(today):
        outcome_report.close(
            Outcome.REFUSED,
            stage="admit",
            reason="consent_expired",
            message=f"consent ended on {identity.consent_until}; renew it and update consent_until",
        )
    elif require_consent and not (identity.consent_ref or identity.consent_until):
        outcome_report.close(
            Outcome.REFUSED,
            stage="admit",
            reason="consent_missing",
            message="run.require_consent is set and the manifest names no consent; fill in consent_ref or consent_until",
        )
    else:
        try:
            subject.photo_digest = sha256_hex(source.read(identity))
            if identity.subject_mask:
                subject.subject_mask_digest = sha256_hex(source.read(mask_of(identity)))
        except PhotoRejected as rejection:
            figures = rejection.value, rejection.threshold
            outcome_report.reject("admit", rejection.reason, rejection.sentence, *figures)
        except StoreError as error:
            outcome_report.close(Outcome.FAILED, stage="admit", reason=type(error).__name__, message=str(error))
    return subject, outcome_report


def admit_all(
    identities: Sequence[Identity],
    store: ObjectStore,
    secret: IdentitySecret,
    photos: PhotoSource,
    config: NightlyConfig,
    today: dt.date,
) -> tuple[dict[str, Subject], dict[str, OutcomeReport], dict[str, Identity]]:
    """Admit every identity, and add floor and ceiling.

    Args:
        identities: Those that take part.
        store: For tombstones.
        secret: Turns ids into keys.
        photos: Reads the photos, which are digested.
        config: Says whether consent is required, and who is the ceiling.
        today: For consents that end.

    Returns:
        Subjects by name, then floor and ceiling; outcome reports and manifest rows by identity key.

    Raises:
        ConfigurationError: no photo at all can be read.
    """
    erased = erased_people(store)

    def one(identity: Identity) -> tuple[Subject, OutcomeReport]:
        return admit(
            identity,
            secret,
            erased=erased,
            source=photos,
            today=today,
            require_consent=config.run.require_consent,
        )

    subjects: dict[str, Subject] = {}
    outcome_reports: dict[str, OutcomeReport] = {}
    by_key: dict[str, Identity] = {}
    with ThreadPoolExecutor(STORE_THREADS) as threads:
        for identity, (subject, outcome_report) in zip(identities, threads.map(one, identities), strict=True):
            subjects[subject.name], outcome_reports[subject.name] = subject, outcome_report
            by_key[subject.name] = identity
    _count_same_photos(subjects, outcome_reports)
    _refuse_if_all_are_missing(outcome_reports, by_key)
    for subject in floor_and_ceiling(config, list(subjects.values())):
        subjects[subject.name] = subject
    return subjects, outcome_reports, by_key


def _count_same_photos(subjects: Mapping[str, Subject], outcome_reports: Mapping[str, OutcomeReport]) -> None:
    """Enter how many other identities have the same photo: one photo under two ids is mostly a mistake."""
    found = Counter(subject.photo_digest for subject in subjects.values())
    for name, outcome_report in outcome_reports.items():
        digest = subjects[name].photo_digest
        outcome_report.same_photo = found[digest] - 1 if digest else None


def _refuse_if_all_are_missing(outcome_reports: dict[str, OutcomeReport], by_key: dict[str, Identity]) -> None:
    """Refuse the run where no photo can be read: a mount or a bucket is gone, and new photos would not help."""
    admitted = [each for each in outcome_reports.values() if each.outcome is not Outcome.REFUSED]
    if admitted and all(each.reason == StoreRefused.__name__ for each in admitted):
        raise ConfigurationError(
            f"none of the manifest's {len(admitted)} photos may be read. Of the first: {admitted[0].message}"
        )
    if len(admitted) > 1 and all(outcome_report.reason == "photo_missing" for outcome_report in admitted):
        raise PhotosMissing(
            f"none of the manifest's {len(admitted)} photos is where it says; check that the disk is mounted or the "
            f"bucket exists. Of the first: {admitted[0].message}",
            first=by_key[admitted[0].identity_key].photo,
        )


def shared_photos(
    outcome_reports: Mapping[str, OutcomeReport], subjects: Mapping[str, Subject], name: Callable[[OutcomeReport], str]
) -> str:
    """Which people have one and the same photo, in a sentence; empty if there are none.

    Args:
        outcome_reports, subjects: by identity key.
        name: how a person is called: by id in a terminal, by key everywhere else.
    """
    alike: dict[str | None, list[str]] = {}
    for key, outcome_report in outcome_reports.items():
        if outcome_report.same_photo:
            alike.setdefault(subjects[key].photo_digest, []).append(name(outcome_report))
    groups = [
        " = ".join(people[:MOST_NAMED])
        + (f" and {len(people) - MOST_NAMED} more" if people[MOST_NAMED:] else "")
        for people in alike.values()
    ]
    return f"one and the same photo: {some_of(groups)}; check the manifest" if groups else ""


def ceiling_names(config: NightlyConfig) -> list[str]:
    """The people whom the base model knows by name and who are drawn as the ceiling."""
    if config.base_model.source != MINIATURE or not config.score.named_people:
        return []
    from faceid_core.miniature.people import (  # the renderer: only a miniature run needs it
        NAMED_SEEDS,
        name_of,
    )

    return [name_of(seed) for seed in NAMED_SEEDS[: config.score.named_people]]


def floor_and_ceiling(config: NightlyConfig, people: list[Subject]) -> list[Subject]:
    """The floor and the ceiling: one subject per class word in use, and named people whom the base model knows."""
    subjects = [
        Subject(
            kind="class_word",
            name=f"class-{word.replace(' ', '-')}",
            scope=COMMON,
            class_word=word,
            text=word,
        )
        for word in sorted({person.class_word for person in people})
    ]
    if config.base_model.source == MINIATURE and config.score.named_people:
        from faceid_core.miniature.samples import named_people

        for name, png in named_people(config.score.named_people):
            subjects.append(
                Subject(
                    kind="named",
                    name=f"named-{name.replace(' ', '-')}",
                    scope=COMMON,
                    class_word="person",
                    text=name,
                    photo_digest=sha256_hex(png),
                )
            )
    return subjects
