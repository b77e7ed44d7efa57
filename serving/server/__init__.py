"""HTTP: schema, access, limits, metrics, and what puts a server together."""
