"""Public data sets to logs: ``import_logs(source, writer, config)`` of a module for each.

It finds the files in a directory or one above it, writes all tables of the data set and the feature
declarations, and returns what a user of the logs should know, one clause each. An InputError says
which file is missing, damaged, or not what it should be.
"""
