"""What the commands show: the terminal display of a run, and pages and tables about runs and models."""
