"""S3: the object store there, its failures, and the S3 location of a DVC remote."""
