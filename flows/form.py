"""The form of a run in the Prefect UI: the fields that people use first; other keys keep the deployment's values.

Prefect's pages make a form from a JSON schema. They show what stands under `properties`, in the order of `position`,
and have no section that folds. So `properties` has the fields to show, and `then` the schema of the whole configuration,
which the pages do not read and the server's check of a run's parameters does. "Use JSON input" shows every key with its
value.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from faceid_core.config import NightlyConfig

FIRST = (
    "identities", "name", "base_model.source", "personalize.preset", "generate.grid", "generate.seeds", "score.metrics",
    "run.only", "run.date", "run.force", "run.from_stage", "execution.workers",
)  # fmt: skip
OTHERS = (
    "These are the keys that are changed most. All others are as the deployment has them: to change one, choose `Use "
    "JSON input` in the menu of this field. `faceid config` explains every key."
)
# Left to the whole schema, so that a mistake is told once.
_CHECKS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "pattern", "minLength", "maxLength")


class _ShowsFirst:
    """An annotation that changes the JSON schema of a configuration, and not what it accepts."""

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        reference = handler(core)
        whole = handler.resolve_ref_schema(reference)
        form: dict[str, Any] = {
            "type": "object",
            "description": f"{whole.get('description', '')}\n\n{OTHERS}",
            "properties": {},
            "if": True,
            "then": reference,
        }
        for place, path in enumerate(FIRST):
            shown, schema = form, whole
            for name in path.split("."):
                inner = schema["properties"][name]
                schema = handler.resolve_ref_schema(inner)
                field = {key: value for key, value in {**schema, **inner}.items() if key not in ("$ref", *_CHECKS)}
                if "properties" in schema:
                    title = name.replace("_", " ").capitalize()
                    field = {"type": "object", "title": title, "description": field["description"], "properties": {}}
                shown = shown["properties"].setdefault(name, field | {"position": place})
        return form


FormConfig = Annotated[NightlyConfig, _ShowsFirst()]
