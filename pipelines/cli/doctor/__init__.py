"""The checks of ``mistere doctor``: a module per group, a small function per check."""
