"""One person who is not in a manifest: what a form asks for, and the identity that it comes to."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from faceid_core.config.section import Section
from faceid_core.identity import Identity, parse_face_box


class OnePerson(Section):
    """Who is to be personalized now."""

    identity_id: str = Field(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$",
        description="Identity id: opaque, no name. The same id later, with another photo, is the same person. "
        "It is kept with the run's parameters in Prefect.",
    )
    photo: str = Field(
        min_length=1,
        max_length=1024,
        pattern=r"^[^\x00-\x1f]+$",
        description="The photo: s3://bucket/name, or a file of the machine that runs the run. The address is kept "
        "with the run's parameters in Prefect, so it should tell nothing about the person.",
    )
    class_word: str = Field(
        "person",
        pattern=r"^[a-z]{1,32}( [a-z]{1,32})?$",
        description="What the person is to the base model: person, man, young woman; one or two lower-case words.",
    )
    consent_ref: str = Field("", max_length=256, description="Where the consent is recorded.")
    consent_until: dt.date | None = Field(None, description="Last day on which the photo may be used.")
    face_box: str = Field(
        "",
        pattern=r"^[0-9., ]*$",
        description="With several faces in the photo, which one: x0,y0,x1,y1 in pixels. Empty: the only face.",
    )

    @field_validator("identity_id", "class_word", "photo")
    @classmethod
    def _ends_where_it_ends(cls, value: Any) -> Any:
        # A pattern's $ lets a line break pass.
        if value.endswith("\n"):
            raise ValueError("ends with a line break")
        return value

    @field_validator("face_box")
    @classmethod
    def _is_a_box(cls, value: str) -> str:
        if value:
            parse_face_box(value)
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
            face_box=parse_face_box(self.face_box) if self.face_box else None,
        )
