"""SALMONN's network (Tang et al., arXiv 2310.13289), which ``transformers`` does not have: BEATs, the whole, and its published names."""
