"""The worlds by name."""

import dataclasses
import types
from collections.abc import Mapping
from typing import Any

from pipeline.worlds.course import Course
from pipeline.worlds.happenings import World
from pipeline.worlds.headlines import Headlines
from pipeline.worlds.music import Music

WORLDS: Mapping[str, World] = types.MappingProxyType(
    {"headlines": Headlines(), "music": Music(), "course": Course()}
)


def world(name: str, **changes: Any) -> World:
    """Returns a world by its name, with some of its settings changed."""
    preset: Any = WORLDS[name]
    changed: World = dataclasses.replace(preset, **changes)
    return changed
