"""Between nights: what the event log gained, learnt within minutes."""
