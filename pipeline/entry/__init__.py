"""All commands under one name, ``watchnext COMMAND``: table, start, shell completion."""
