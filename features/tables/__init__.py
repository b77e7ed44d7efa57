"""The raw tables: which files are read, columns and types, cleaning, writing.

Imports the files that stand directly in features.
"""
