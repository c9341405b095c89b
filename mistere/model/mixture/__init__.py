"""The mixture of experts over a dialogue (MiSTER-E, arXiv 2602.23300), exact under padding and missing modalities."""
