"""The commands behind ``mistere``, one module each; imported when called."""
