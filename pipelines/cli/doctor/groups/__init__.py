"""Groups of checks of ``mistere doctor``, a module each."""
