"""The worlds by name."""

import types
from collections.abc import Mapping

from pipeline.worlds.course import Course
from pipeline.worlds.happenings import World
from pipeline.worlds.headlines import Headlines
from pipeline.worlds.music import Music

WORLDS: Mapping[str, World] = types.MappingProxyType(
    {"headlines": Headlines(), "music": Music(), "course": Course()}
)
