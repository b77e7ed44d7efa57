"""Public data sets to logs."""
