"""``report_run``: the exit handler, which reports the outcome of the run, its metrics and the next steps."""
