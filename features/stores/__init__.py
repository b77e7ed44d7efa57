"""Object stores (S3, Google Cloud Storage): one client, staged copies, whole publications, leases.

Imports the files that stand directly in features.
"""
