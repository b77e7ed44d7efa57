"""The raw tables: which files are read, columns and types, cleaning, writing."""
