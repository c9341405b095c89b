"""Register a candidate that passed the gate, and publish its bundle."""
