"""What is read back of a run besides the API: pods, logs of drivers, the Workflow of Argo."""
