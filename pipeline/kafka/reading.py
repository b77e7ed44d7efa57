"""How the messages of topics are read: what a command line says of it."""

import dataclasses
import pathlib
from collections.abc import Mapping

from features import command

JSON, AVRO, AVRO_REGISTRY = "json", "avro", "avro_registry"
FORMATS = (JSON, AVRO, AVRO_REGISTRY)
UNITS = {"s": 1, "ms": 1000, "us": 1_000_000}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """How the messages of topics are read.

    Attributes:
        kinds: Topic to the ``type`` of all its events; "" where each message has a ``type``.
        format: ``json``; ``avro``, or ``avro_registry`` with a registry's five bytes before it.
        avro_schema: File with the Avro schema that messages are written with; None for JSON.
        fields: Our name to the name in the messages, with dots into what is nested.
        time_unit: Unit of ``time``: ``s``, ``ms`` or ``us``.
    """

    kinds: Mapping[str, str]
    format: str = JSON
    avro_schema: pathlib.Path | None = None
    fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
    time_unit: str = "s"

    def __post_init__(self) -> None:
        if (self.avro_schema is None) != (self.format == JSON):
            raise command.InputError("--avro_schema goes with --format=avro or avro_registry.")
