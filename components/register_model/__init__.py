"""Put a candidate that passed its gate into the registry and its bundle into the store."""
