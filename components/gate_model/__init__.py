"""Decide whether a candidate is released: promote, hold or reject, with the reasons in words."""
