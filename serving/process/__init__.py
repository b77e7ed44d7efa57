"""Processes and processors: supervisor, handover, listening socket, cores."""
