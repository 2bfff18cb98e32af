"""The trigger form: the options that a recipe offers, as typed fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.recipe.catalogue import Catalogue
from tasks.recipe.models import Recipe
from tasks.recipe.options import normal

_SCALARS = ("number", "integer", "string", "boolean", "null")
_LIMITS = (
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "minLength",
    "maxLength",
    "pattern",
    "enum",
    "items",
    "minItems",
    "maxItems",
)


def form_fields(recipe: Recipe, catalogue: Catalogue) -> list[dict[str, Any]]:
    """The fields of a recipe's trigger form, in its order; all plain JSON.

    Returns:
        For each entry: `key` (`adapted__lr`, the parameter's name), `name` (`adapted.lr`), `path` (the key to
        override), `default` (the recipe's value, else the method's), `schema` (JSON Schema with `type`,
        `title`, `description` and limits).
    """
    fields: list[dict[str, Any]] = []
    for entry in recipe.form:
        name, _, option = entry.partition(".")
        step = recipe.steps[name]
        method = catalogue.method(step.stage, step.method)
        whole = method.option_schema(option)
        schema = _flat(whole)
        default = normal(whole, step.options.get(option, whole.get("default")))
        unit = f" [{whole['unit']}]" if whole.get("unit") else ""
        schema["title"] = f"{name}: {option}{unit}"
        schema["description"] = " ".join(
            part
            for part in (
                str(whole.get("description", "")),
                f"Default from {whole['source']}."
                if whole.get("source") and option not in step.options
                else "",
            )
            if part
        )
        fields.append(
            {
                "key": f"{name}__{option}",
                "name": entry,
                "path": f"steps.{name}.options.{option}",
                "default": default,
                "schema": schema,
            }
        )
    return fields


def overrides_from_form(values: Mapping[str, Any], fields: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The overrides that a filled form means: only what differs from the fields' defaults.

    Args:
        values: Parameter name -> value; parameters that are none of the fields are left alone.
        fields: From `form_fields`.

    Returns:
        `{"steps.adapted.options.lr": 1e-4}`.
    """
    found: dict[str, Any] = {}
    for field in fields:
        if field["key"] in values:
            types = field["schema"]["type"]
            branches = [{"type": each} for each in (types if isinstance(types, list) else [types])]
            value = normal({**field["schema"], "anyOf": branches}, values[field["key"]])
            if value != field["default"] or type(value) is not type(field["default"]):
                found[field["path"]] = value
    return found


def _flat(schema: Mapping[str, Any]) -> dict[str, Any]:
    """One type (or a list of types) with its limits, which is what Airflow's form can draw."""
    branches = [dict(each) for each in schema.get("anyOf", [schema])]
    types: list[str] = []
    flat: dict[str, Any] = {}
    for branch in branches:
        if "const" in branch:
            branch["enum"] = [branch["const"]]
        kind = branch.get("type")
        if kind and kind not in types:
            types.append(str(kind))
        for limit in _LIMITS:
            if limit in branch:
                flat[limit] = [*flat.get("enum", []), *branch["enum"]] if limit == "enum" else branch[limit]
    if "enum" in flat and len(branches) > 1:
        # Together with a free branch an enumeration would forbid what that branch allows.
        free = [each for each in branches if "enum" not in each and each.get("type") != "null"]
        if free:
            del flat["enum"]
        elif "null" in types:
            flat["enum"] = [*flat["enum"], None]
    flat["type"] = types[0] if len(types) == 1 else types or list(_SCALARS)
    return flat
