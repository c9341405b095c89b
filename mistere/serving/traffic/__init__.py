"""Statistics of what an endpoint answers: their fixed bins, their files in the store, and their reference in a bundle."""
