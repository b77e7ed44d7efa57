from tests.serving.history.stores import logs_dir, open_store, redis_at, sqlite_at, store  # noqa: F401
