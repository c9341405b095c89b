"""The commands about the runs of a store."""
