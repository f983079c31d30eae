"""The section `personalize`: a preset, and single choices of the method that differ from it."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, create_model, model_validator

from .method import Method
from .presets import PRESETS, WITHOUT_NAMES
from .section import LocalPath, Section

DEFAULT_PRESET = "semantic-fidelity+prior"


def _optional_choices() -> dict[str, Any]:
    """Every field of Method with its limits, made optional: empty keeps the preset's value."""
    fields = {}
    for name, field in Method.model_fields.items():
        kind: Any = field.annotation
        for limit in field.metadata:
            kind = Annotated[kind, limit]
        value = getattr(PRESETS[DEFAULT_PRESET], name)
        usual = "empty" if value is None else value
        about = f"{field.description} The preset's value by default ({usual} in {DEFAULT_PRESET})."
        fields[name] = (kind | None, Field(None, description=about))
    return fields


# Forms and `faceid config` show every choice of the method.
MethodOverrides = create_model(
    "MethodOverrides",
    __base__=Section,
    __doc__="Single choices that differ from the preset; leave empty to keep the preset's value.",
    **_optional_choices(),
)


class PersonalizeConfig(Section):
    """How the tokens of an identity are learned."""

    preset: Literal[tuple(PRESETS)] = Field(  # ty: ignore[invalid-type-form] - the table has the names
        DEFAULT_PRESET, description="Method: a row of the comparison table."
    )
    method: MethodOverrides = Field(  # ty: ignore[invalid-type-form] - a model with the fields of Method
        default_factory=MethodOverrides, description="Single choices that differ from the preset."
    )
    names_file: LocalPath = Field(
        "",
        max_length=1024,
        description="Text file with names that the base model knows, one of two words a line, from which a preset with a "
        "name prior learns. Empty: the miniature's own names; another base model then has no prior, and the preset "
        "learns vectors instead.",
    )
    slots: int = Field(
        8,
        ge=0,
        le=256,
        description="Identities trained together in one pass through the network. 0: as many as fit into the GPU's "
        "memory, measured before the first; an identity then has bitwise the same tokens only on GPUs with equal memory.",
    )
    samples_at_once: int = Field(
        0,
        ge=0,
        le=65_536,
        description="Noised samples (of slots x samples_per_step) in one call of the network, to bound its memory; "
        "a step then takes about a third longer. 0: all.",
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Seed of every random draw in training.")

    @model_validator(mode="after")
    def _method_fits_together(self) -> Self:
        try:
            for has_names in (True, False):
                self.resolved(has_names=has_names)
        except ValidationError as error:
            problems = "; ".join(
                ".".join(["method", *map(str, problem["loc"])]) + f": {problem['msg']}"
                for problem in error.errors()
            )
            raise ValueError(f"with preset {self.preset!r}: {problems}") from None
        return self

    def preset_in_use(self, *, has_names: bool) -> str:
        """Name of the preset that `resolved` takes."""
        return self.preset if has_names else WITHOUT_NAMES.get(self.preset, self.preset)

    def resolved(self, *, has_names: bool = True) -> Method:
        """Return the preset with the overrides applied, validated as a whole.

        Args:
            has_names: whether the base model's known names are at hand; without them, a preset with a name prior takes
                the form that learns vectors.
        """
        chosen = {k: v for k, v in self.method.model_dump().items() if v is not None}
        preset = self.preset_in_use(has_names=has_names)
        return Method.model_validate({**PRESETS[preset].model_dump(), **chosen})
