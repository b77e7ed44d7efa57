"""Fixtures of the serving tests: a tiny release, a trained one, and real servers."""

from tests.serving.servers import (  # noqa: F401
    crowd_at,
    redis_server,
    redis_with,
    running,
    serve,
    site,
    start_binary,
)
from tests.serving.tiny_release import published_root, serving_root, tiny, tiny_publish  # noqa: F401
from tests.serving.trained_release import small_release, small_site  # noqa: F401
