"""The same funnel over logs and query files; what experiments showed.

Imports the wings below it: funnel, live, servables, index, release, events.
"""
