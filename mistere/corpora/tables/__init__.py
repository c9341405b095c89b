"""Import tables: read them as files, check their cells, name their labels, make their splits."""
