"""All commands under one name, ``watchnext COMMAND``: their table, their start, shell completion.

Imports features and the standard library alone; a command is imported when it is started.
"""
