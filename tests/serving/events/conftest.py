from tests.serving.events.logs_of_events import log, wall  # noqa: F401
