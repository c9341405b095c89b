"""Datasets brought into the dataset form: a module or folder for each, none imported before it is asked for."""
