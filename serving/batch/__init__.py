"""The same funnel over logs and query files; what experiments showed."""
