"""The JSON schema of a recipe: what an editor completes and checks while one is written."""

from __future__ import annotations

from typing import Any

from fedtune.recipe.drafts import STARTS
from fedtune.recipe.schema import Recipe

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """Make the schema from the recipe's own sections, flat or in stages.

    It knows keys, types, bounds, defaults and what each is for. What depends on several keys, and
    the options of a rule or an attack, `fedtune check` knows alone: a recipe may pass here and not
    there, never the other way round.

    Returns:
        A JSON schema, draft 2020-12.
    """
    schema = Recipe.model_json_schema()
    sections, defs = schema["properties"], schema["$defs"]
    for name, known in _names().items():
        defs[name]["properties"]["name"] = {
            "description": "of `fedtune list`, or of an installed package",
            "anyOf": [{"enum": known}, {"type": "string"}],
        }
    own = {
        "name": {"type": "string", "description": "what its folder is called"},
        "start": {"enum": list(STARTS), "description": "what the stage starts from"},
        "from": {"type": "string", "description": "which stage it starts from; the one before"},
    }
    stage = {key: value for key, value in sections.items() if key != "output_dir"}
    defs["Stage"] = {
        "type": "object",
        "description": "a stage: a name, and what it says otherwise than all stages do",
        "properties": {**own, **stage},
        "required": ["name"],
        "additionalProperties": False,
    }
    sections["stages"] = {
        "type": "array",
        "minItems": 1,
        "items": {"$ref": "#/$defs/Stage"},
        "description": "one run after another, each from what one before has made",
    }
    schema.pop("required", None)  # what a recipe leaves out has a default, or stands in its stages
    return {"$schema": DIALECT, **schema, "title": "A fedtune recipe"}


def _names() -> dict[str, list[str]]:
    from aggregators.registry import AGGREGATORS
    from attacks.registry import ATTACKS

    return {"Aggregator": sorted(AGGREGATORS), "Attack": sorted(ATTACKS)}
