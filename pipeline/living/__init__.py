"""A living site: simulated people visit a real server, day after day.

Import its modules.
"""
