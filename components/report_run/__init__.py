"""``report_run``: the exit handler, which tells a reader how the run ended, with which figures, and what to do next."""
