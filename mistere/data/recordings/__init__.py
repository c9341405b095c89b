"""Files of recordings: the accepted formats, and how long a file is by its bytes rather than by its header."""
