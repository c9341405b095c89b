"""Files and headers from outside are parsed here, with limits that are checked before memory is spent on them."""
