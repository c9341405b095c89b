"""Dialogues of live traffic that were kept for labelling, as they lie in the store."""
