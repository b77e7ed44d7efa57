"""Processes and processors: supervisor, handover, listening socket, cores.

Imports nothing of serving but its errors.
"""
