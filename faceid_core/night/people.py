"""Who takes part in a night: the manifest's people, the class words (floor) and named people (ceiling)."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from faceid_core.config import NightlyConfig
from faceid_core.errors import ConfigurationError, PhotoRejected
from faceid_core.identity import Identity, read_manifest
from faceid_core.night.photo_source import PhotoSource
from faceid_core.outcomes import Account, Outcome
from faceid_core.stages.work import COMMON, Subject
from faceid_core.store import ObjectStore, is_erased
from faceid_core.store.folder import folder_of
from faceid_core.store.keys import sha256_hex
from faceid_core.store.secret import IdentitySecret

SAMPLES = "miniature:samples"


def manifest_source(config: NightlyConfig) -> str:
    """Path of the manifest; the sample people are written to a folder beside the store the first time.

    Photos that are there already stay as they are, so that one can be exchanged by hand and run again.
    """
    if config.identities != SAMPLES:
        return config.identities
    from faceid_core.miniature.samples import write_samples

    in_s3 = config.store.startswith("s3://")
    folder = Path("work/samples") if in_s3 else folder_of(config.store).parent / "samples"
    if not (folder / "identities.csv").is_file():
        write_samples(folder)
    return str(folder / "identities.csv")


def read_people(config: NightlyConfig) -> list[Identity]:
    """The manifest's identities, or those of `run.only`.

    Raises:
        InputContractError: with every problem of the manifest at once.
        ConfigurationError: `run.only` names somebody who is not in the manifest.
    """
    people = read_manifest(manifest_source(config))
    wanted = set(config.run.only)
    unknown = wanted - {person.identity_id for person in people}
    if unknown:
        raise ConfigurationError(
            f"run.only names {', '.join(sorted(unknown))}, not in {manifest_source(config)}; "
            "check the spelling, or leave run.only empty to run everybody"
        )
    return [person for person in people if not wanted or person.identity_id in wanted]


def admit(
    identity: Identity, store: ObjectStore, secret: IdentitySecret, *, source: PhotoSource, today: dt.date
) -> tuple[Subject, Account]:
    """Give a person a key and an account, refuse who may not run, and digest the photo.

    The photo goes into the store when detection needs it (`photo_source`), not here.
    """
    key = secret.identity_key(identity.identity_id)
    subject = Subject(
        kind="person",
        name=key,
        scope=f"identities/{key}",
        class_word=identity.class_word,
        identity_id=identity.identity_id,
        face_box=identity.face_box,
    )
    account = Account(identity.identity_id, key)
    if is_erased(store, key):
        account.close(
            Outcome.REFUSED,
            stage="admit",
            reason="erased",
            message="this person was erased; take the row out of the manifest, or lift the tombstone on a new consent",
        )
    elif identity.consent_expired(today):
        account.close(
            Outcome.REFUSED,
            stage="admit",
            reason="consent_expired",
            message=f"consent ended on {identity.consent_until}; renew it and update consent_until",
        )
    else:
        try:
            subject.photo_digest = sha256_hex(source.read(identity))
        except PhotoRejected as rejection:
            reject(
                account, "admit", rejection.reason, rejection.sentence, rejection.value, rejection.threshold
            )
    return subject, account


def reject(
    account: Account,
    stage: str,
    reason: str | None,
    sentence: str | None,
    value: float | None,
    threshold: float | None,
) -> None:
    """Close an account as rejected, with the figures behind the reason."""
    account.close(Outcome.REJECTED, stage=stage, reason=reason, message=sentence)
    account.value, account.threshold = value, threshold


def common_subjects(config: NightlyConfig, people: list[Subject]) -> list[Subject]:
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
    if config.base_model.source == "miniature" and config.score.named_people:
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
