"""The event log: what was served and what users did, written durably, read on, compacted.

Imports nothing of serving but its errors.
"""
