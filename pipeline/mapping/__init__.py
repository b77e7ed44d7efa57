"""Anybody's files and databases to logs, as one mapping file says."""
