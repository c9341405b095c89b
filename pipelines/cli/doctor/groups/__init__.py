"""The groups of checks of ``mistere doctor``, a module each."""
