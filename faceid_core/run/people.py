"""Who takes part in a run: the manifest's people, the class words (floor) and named people (ceiling)."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from faceid_core.config import NightlyConfig
from faceid_core.errors import ConfigurationError, ObjectMissing, PhotoRejected, StoreError
from faceid_core.identity import (
    MOST_MANIFEST_BYTES,
    Identity,
    parse_manifest,
    read_manifest,
    too_large_a_manifest,
)
from faceid_core.outcomes import MOST_NAMED, Account, Outcome, some_of
from faceid_core.run.photo_source import PhotoSource, mask_of
from faceid_core.stages.work import COMMON, Subject
from faceid_core.store import open_store
from faceid_core.store.folder import folder_of
from faceid_core.store.keys import sha256_hex
from faceid_core.store.secret import IdentitySecret
from faceid_core.weights.describe import MINIATURE

SAMPLES = "miniature:samples"
ERASED = "erased"  # why somebody with a tombstone is refused
_POPULATION = re.compile(r"miniature:([a-z-]+):([0-9]+)")


def manifest_source(config: NightlyConfig) -> str:
    """Path of the manifest; people of the miniature world are written to a folder beside the store first.

    Photos of the sample people that are there already stay as they are, so that one can be exchanged by hand and
    run again. Those of a population ('miniature:held-out:16') are always its own.

    Raises:
        ConfigurationError: there is no such population, or it has fewer people.
    """
    if config.identities == SAMPLES:
        from faceid_core.miniature.samples import write_samples

        folder = _beside_the_store(config, "samples")
        if not (folder / "identities.csv").is_file():
            write_samples(folder)
        return str(folder / "identities.csv")
    asked = _POPULATION.fullmatch(config.identities)
    if asked:
        return str(_write_population(config, asked[1], int(asked[2])))
    return config.identities


def _beside_the_store(config: NightlyConfig, name: str) -> Path:
    in_s3 = config.store.startswith("s3://")
    return Path("work") / name if in_s3 else folder_of(config.store).parent / name


def _write_population(config: NightlyConfig, population: str, count: int) -> Path:
    from faceid_core.miniature.samples import POPULATIONS, write_samples

    seeds = POPULATIONS.get(population)
    if seeds is None or not 1 <= count <= len(seeds):
        known = ", ".join(f"miniature:{name}:1 to {len(those)}" for name, those in POPULATIONS.items())
        raise ConfigurationError(f"identities {config.identities!r} are unknown; use {SAMPLES}, or {known}")
    folder = _beside_the_store(config, f"{population}-{count}")
    return write_samples(folder, seeds[:count], prefix=population)


def read_people(config: NightlyConfig) -> list[Identity]:
    """The manifest's identities, or those of `run.only`.

    Raises:
        InputContractError: with every problem of the manifest at once.
        ConfigurationError: `run.only` names somebody who is not in the manifest, or the method does not suit subjects
            that are no people.
    """
    people = _manifest(config, manifest_source(config))
    wanted = set(config.run.only)
    unknown = wanted - {person.identity_id for person in people}
    if unknown:
        raise ConfigurationError(
            f"run.only names {', '.join(sorted(unknown))}, not in {manifest_source(config)}; "
            "check the spelling, or leave run.only empty to run everybody"
        )
    chosen = [person for person in people if not wanted or person.identity_id in wanted]
    _refuse_names_for_things(config, chosen)
    return chosen


def _manifest(config: NightlyConfig, source: str) -> list[Identity]:
    if not source.startswith("s3://"):
        return read_manifest(source)
    folder, _, name = source.rpartition("/")
    try:
        store = open_store(folder, config.s3.settings())
        info = store.head(name)
        if info is not None and info.size > MOST_MANIFEST_BYTES:
            raise too_large_a_manifest(source)
        data = store.get(name)
    except ObjectMissing:
        raise ConfigurationError(
            f"there is no manifest {source}; a folder in S3 needs its manifest named"
        ) from None
    except StoreError as error:
        raise ConfigurationError(f"the manifest {source} cannot be read: {error}") from error
    return parse_manifest(data, source=source, base=folder)


def _refuse_names_for_things(config: NightlyConfig, people: list[Identity]) -> None:
    """Refuse to learn a cat or a car as if it were made of people's names."""
    method = config.personalize.resolved()
    lines = [str(each.line) for each in people if each.subject_box or each.subject_mask]
    if lines and (method.start != "class_word" or method.parametrization == "name_basis"):
        raise ConfigurationError(
            f"lines {', '.join(lines[:5])}{' ...' if len(lines) > 5 else ''} of the manifest name subjects that are no "
            f"people, and preset {config.personalize.preset!r} starts at the names of people; run them apart with a "
            "preset that starts at the class word, such as semantic-fidelity-as-published or textual-inversion"
        )


def admit(
    identity: Identity,
    secret: IdentitySecret,
    *,
    erased: Collection[str],
    source: PhotoSource,
    today: dt.date,
    require_consent: bool,
) -> tuple[Subject, Account]:
    """Give a person a key and an account, refuse who may not run, and digest the photo.

    The photo goes into the store when detection needs it (`photo_source`), not here.

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
    account = Account(identity.identity_id, key)
    if key in erased:
        account.close(
            Outcome.REFUSED,
            stage="admit",
            reason=ERASED,
            message="this person was erased; take the row out of the manifest; on a new consent enrol under a new id",
        )
    elif identity.consent_expired(today):
        account.close(
            Outcome.REFUSED,
            stage="admit",
            reason="consent_expired",
            message=f"consent ended on {identity.consent_until}; renew it and update consent_until",
        )
    elif require_consent and not (identity.consent_ref or identity.consent_until):
        account.close(
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
            reject(
                account, "admit", rejection.reason, rejection.sentence, rejection.value, rejection.threshold
            )
        except StoreError as error:
            account.close(Outcome.FAILED, stage="admit", reason=type(error).__name__, message=str(error))
    return subject, account


def shared_photos(
    accounts: Mapping[str, Account], subjects: Mapping[str, Subject], name: Callable[[Account], str]
) -> str:
    """Which people have one and the same photo, in a sentence; empty if there are none.

    Args:
        accounts, subjects: by identity key.
        name: how a person is called: by id in a terminal, by key everywhere else.
    """
    alike: dict[str | None, list[str]] = {}
    for key, account in accounts.items():
        if account.same_photo:
            alike.setdefault(subjects[key].photo_digest, []).append(name(account))
    groups = [
        " = ".join(people[:MOST_NAMED])
        + (f" and {len(people) - MOST_NAMED} more" if people[MOST_NAMED:] else "")
        for people in alike.values()
    ]
    return f"one and the same photo: {some_of(groups)}; check the manifest" if groups else ""


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


def names_of_ceiling(config: NightlyConfig) -> list[str]:
    """The people whom the base model knows by name and who are drawn as the ceiling."""
    if config.base_model.source != MINIATURE or not config.score.named_people:
        return []
    from faceid_core.miniature.people import NAMED_SEEDS, name_of

    return [name_of(seed) for seed in NAMED_SEEDS[: config.score.named_people]]


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
