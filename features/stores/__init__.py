"""Object stores (S3, Google Cloud Storage): a client, staged copies, publications, leases."""
