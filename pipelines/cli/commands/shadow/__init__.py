"""``mistere shadow``: compare a version with the deployed one on copies of its requests, before it is released."""
