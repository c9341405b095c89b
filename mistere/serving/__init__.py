"""The endpoint seen from outside: its names, a client for it, and the manifest that runs it on a cluster."""
