"""HTTP: schema, access, limits, metrics, and what puts a server together.

May import every wing of serving but build and batch.
"""
