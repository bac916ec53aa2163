"""Settings of a model between our configuration and config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def translated(json: Mapping[str, Any], names: Mapping[str, str], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Our fields from theirs: `names` maps ours to theirs. `defaults` hold for what json leaves out or has as null."""
    fields = {}
    for ours, theirs in names.items():
        value = json.get(theirs)
        if value is None:
            if theirs not in defaults:
                raise ValueError(f"config.json lacks {theirs}")
            value = defaults[theirs]
        fields[ours] = value
    return fields


def require(json: Mapping[str, Any], **fixed: tuple[Any, ...]) -> None:
    """ValueError unless each setting that json gives is one of those that our model has."""
    for name, values in fixed.items():
        if name in json and json[name] not in values:
            possible = " or ".join(repr(value) for value in values)
            raise ValueError(f"config.json has {name} = {json[name]!r}; this model has {possible} and nothing else")
