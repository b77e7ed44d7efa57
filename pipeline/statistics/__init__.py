"""What tables and features look like: statistics.json, statistics.html, drift."""
