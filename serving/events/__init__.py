"""The event log: what was served and what users did, written durably, read on, compacted."""
