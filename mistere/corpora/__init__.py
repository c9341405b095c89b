"""Importers of published corpora and tables, and the generator of the sample."""
