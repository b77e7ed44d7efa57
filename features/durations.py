"""Lengths of time, seconds. Days are those of UTC, which all have the same length."""

MINUTE_S = 60
HOUR_S = 60 * MINUTE_S
DAY_S = 24 * HOUR_S
