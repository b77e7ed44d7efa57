"""Traces of requests, for those who collect them; nothing is imported or done for the others."""

import contextlib
from collections.abc import Iterator
from typing import Protocol

from features import command


class Tracer(Protocol):
    """Receiver of spans; safe for threads."""

    def span(
        self, name: str, *, parent: str = ""
    ) -> contextlib.AbstractContextManager[dict[str, str]]:
        """Times a block; what it puts into the dictionary becomes attributes of the span.

        Args:
            name: Name of the span. One within another is its child.
            parent: W3C ``traceparent`` of the caller; "" for none.
        """

    def close(self) -> None:
        """Sends what is left."""


class NoTracer:
    """Traces nothing."""

    def span(
        self, name: str, *, parent: str = ""
    ) -> contextlib.AbstractContextManager[dict[str, str]]:
        """Yields a dictionary that nobody reads."""
        del name, parent
        return contextlib.nullcontext({})

    def close(self) -> None:
        """Does nothing."""


class OpenTelemetryTracer:
    """Sends spans to an OpenTelemetry collector over HTTP."""

    def __init__(self, endpoint: str, *, service: str = "watchnext") -> None:
        """Prepares; spans are sent in batches from a thread of their own.

        Args:
            endpoint: URL that spans are sent to, for example ``http://localhost:4318/v1/traces``.
            service: Name of the service in the traces.

        Raises:
            InputError: OpenTelemetry is not installed.
        """
        try:
            from opentelemetry.exporter.otlp.proto.http import trace_exporter
            from opentelemetry.sdk import resources, trace
            from opentelemetry.sdk.trace import export
            from opentelemetry.trace.propagation import tracecontext
        except ImportError as error:
            raise command.InputError(
                f"--traces needs OpenTelemetry ({error}): pip install '.[tracing]' in the checkout."
            ) from error
        resource = resources.Resource.create({"service.name": service})
        self._provider = trace.TracerProvider(resource=resource)
        exporter = trace_exporter.OTLPSpanExporter(endpoint=endpoint)
        self._provider.add_span_processor(export.BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("watchnext")
        self._propagator = tracecontext.TraceContextTextMapPropagator()

    @contextlib.contextmanager
    def span(self, name: str, *, parent: str = "") -> Iterator[dict[str, str]]:
        """Times a block as a span of OpenTelemetry."""
        context = self._propagator.extract({"traceparent": parent}) if parent else None
        with self._tracer.start_as_current_span(name, context=context) as span:
            attributes: dict[str, str] = {}
            try:
                yield attributes
            finally:
                for key, value in attributes.items():
                    span.set_attribute(key, value)

    def close(self) -> None:
        """Sends what is left."""
        self._provider.shutdown()


def open_tracer(endpoint: str | None) -> Tracer:
    """Returns a tracer that sends to ``endpoint``; None traces nothing."""
    return OpenTelemetryTracer(endpoint) if endpoint else NoTracer()
