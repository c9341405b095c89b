"""Deploy a bundle, smoke-test it, and make it the champion."""
