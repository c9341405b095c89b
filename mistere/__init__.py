"""What the stages share: artifact contracts and their I/O, configuration, data, encoders, the mixture, metrics, the store."""
