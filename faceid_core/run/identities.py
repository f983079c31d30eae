"""Which identities a run is asked for: those of a manifest, of the miniature world, or one that a form describes."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from faceid_core.config import NightlyConfig
from faceid_core.config.section import Section, date_as_text
from faceid_core.errors import ConfigurationError, NamesPeople, ObjectMissing, StoreError
from faceid_core.identity import (
    CLASS_WORD_PATTERN,
    ID_PATTERN,
    MOST_MANIFEST_BYTES,
    Identity,
    is_folder_of_photos,
    parse_box,
    parse_manifest,
    read_folder,
    read_manifest,
    too_large_a_manifest,
)
from faceid_core.photo_folder import LeftOut, summary_of
from faceid_core.photos import encode_png
from faceid_core.private import FOLDER_MODE, write_private
from faceid_core.store import open_store
from faceid_core.store.folder import folder_of

SAMPLES = "miniature:samples"
EXAMPLE = "example:astronaut"
_POPULATION = re.compile(r"miniature:([a-z-]+):([0-9]+)")


def manifest_source(config: NightlyConfig) -> str:
    """Path of the manifest; people of the miniature world and the example are written beside the store first.

    Existing photos of the sample people stay as they are, so that one can be exchanged by hand and run again. Those of
    a population ('miniature:held-out:16') are always written.

    Raises:
        ConfigurationError: there is no such population, or it has fewer people; the package with the example is missing.
    """
    if config.identities == SAMPLES:
        from faceid_core.miniature.samples import write_samples  # the renderer: only a miniature run needs it

        folder = _beside_the_store(config, "samples")
        if not (folder / "identities.csv").is_file():
            write_samples(folder)
        return str(folder / "identities.csv")
    if config.identities == EXAMPLE:
        return str(_write_example(config))
    asked = _POPULATION.fullmatch(config.identities)
    if asked:
        return str(_write_population(config, asked[1], int(asked[2])))
    return config.identities


def _beside_the_store(config: NightlyConfig, name: str) -> Path:
    in_s3 = config.store.startswith("s3://")
    return Path("work") / name if in_s3 else folder_of(config.store).parent / name


def _write_example(config: NightlyConfig) -> Path:
    """One real portrait, which scikit-image brings: NASA's of Eileen Collins, in the public domain.

    Raises:
        ConfigurationError: scikit-image is not installed.
    """
    folder = _beside_the_store(config, "photos")
    manifest = folder / "identities.csv"
    if not manifest.is_file():
        try:
            from skimage import data  # an extra that only this example needs
        except ImportError:
            raise ConfigurationError(
                f"identities {EXAMPLE} needs the package scikit-image: pip install 'faceid[example]', or name a folder "
                "of photos with --identities"
            ) from None
        folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        write_private(folder / "astronaut.png", encode_png(data.astronaut()))
        write_private(manifest, b"identity_id,photo,class_word\nastronaut,astronaut.png,woman\n")
    return manifest


def _write_population(config: NightlyConfig, population: str, count: int) -> Path:
    from faceid_core.miniature.samples import POPULATIONS, write_samples

    seeds = POPULATIONS.get(population)
    if seeds is None or not 1 <= count <= len(seeds):
        known = ", ".join(f"miniature:{name}:1 to {len(those)}" for name, those in POPULATIONS.items())
        raise ConfigurationError(f"identities {config.identities!r} are unknown; use {SAMPLES}, or {known}")
    folder = _beside_the_store(config, f"{population}-{count}")
    return write_samples(folder, seeds[:count], prefix=population)


def read_identities(config: NightlyConfig) -> list[Identity]:
    """The identities of `read_requested` alone."""
    return read_requested(config)[0]


def read_requested(config: NightlyConfig) -> tuple[list[Identity], str]:
    """The manifest's identities, or those of `run.only`, and what a folder of photos holds besides.

    Returns:
        The identities, and a sentence on the entries that are left out, which names none; empty for a manifest, or if
        there are none.

    Raises:
        InputContractError: with every problem of the manifest at once.
        ConfigurationError: `run.only` names an identity that is not in the manifest, or the method does not suit
            subjects that are no people.
    """
    source = manifest_source(config)
    people, left_out = _manifest(config, source)
    wanted = set(config.run.only)
    unknown = wanted - {person.identity_id for person in people}
    if unknown:
        what_to_do = f"not in {source}; check the spelling, or leave run.only empty to run the whole manifest"
        raise NamesPeople(
            f"run.only names {', '.join(sorted(unknown))}, {what_to_do}",
            without_people=f"run.only names {len(unknown)} identity ids that are {what_to_do}",
        )
    chosen = [person for person in people if not wanted or person.identity_id in wanted]
    _refuse_names_for_things(config, chosen)
    return chosen, summary_of(left_out)


def _manifest(config: NightlyConfig, source: str) -> tuple[list[Identity], Sequence[LeftOut]]:
    if not source.startswith("s3://"):
        path = Path(source)
        return read_folder(path) if is_folder_of_photos(path) else (read_manifest(path), ())
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
    return parse_manifest(data, source=source, base=folder), ()


def _refuse_names_for_things(config: NightlyConfig, people: list[Identity]) -> None:
    """Refuse a method that starts at people's names for subjects that are no people, such as a cat or a car."""
    method = config.method()
    lines = [str(each.line) for each in people if each.subject_box or each.subject_mask]
    if lines and (method.initial_embedding != "class_word" or method.parametrization in ("name_basis", "name_mixture")):
        raise ConfigurationError(
            f"lines {', '.join(lines[:5])}{' ...' if len(lines) > 5 else ''} of the manifest name subjects that are no "
            f"people, and preset {config.personalize.preset!r} starts at the names of people; run them apart with a "
            "preset that starts at the class word, such as semantic-fidelity-as-published or textual-inversion"
        )


class OnePerson(Section):
    """One identity that is in no manifest, as a form asks for it."""

    identity_id: str = Field(
        pattern=f"^{ID_PATTERN}$",
        description="Identity id: opaque, no name. The same id later, with another photo, is the same person. "
        "It is kept with the run's parameters in Prefect.",
    )
    photo: str = Field(
        min_length=1,
        max_length=1024,
        pattern=r"^[^\x00-\x1f]+$",
        description="The photo: s3://bucket/name, or a file of the machine that runs the run. The address is kept "
        "with the run's parameters in Prefect, so it should hold nothing about the person.",
    )
    class_word: str = Field(
        "person",
        pattern=f"^{CLASS_WORD_PATTERN}$",
        description="What the person is to the base model: person, man, young woman; one or two lower-case words.",
    )
    consent_ref: str = Field("", max_length=256, description="Where the consent is recorded.")
    consent_until: dt.date | None = Field(None, description="Last day on which the photo may be used.")
    _date_as_text = field_validator("consent_until", mode="before")(date_as_text)
    face_box: str = Field(
        "",
        pattern=r"^[0-9., ]*$",
        description="With several faces in the photo, which one: x0,y0,x1,y1 in pixels. Empty: the only face.",
    )

    @field_validator("identity_id", "class_word", "photo")
    @classmethod
    def _has_no_line_break(cls, value: Any) -> Any:
        # A pattern's $ lets a line break pass.
        if value.endswith("\n"):
            raise ValueError("ends with a line break")
        return value

    @field_validator("face_box")
    @classmethod
    def _is_a_box(cls, value: str) -> str:
        if value:
            parse_box(value)
        return value

    def identity(self) -> Identity:
        """The identity, as a manifest would give it; a relative path counts from the present folder."""
        in_s3 = self.photo.startswith("s3://")
        return Identity(
            identity_id=self.identity_id,
            photo=self.photo if in_s3 else str(Path(self.photo).absolute()),
            class_word=self.class_word,
            consent_ref=self.consent_ref or None,
            consent_until=self.consent_until,
            face_box=parse_box(self.face_box) if self.face_box else None,
        )
