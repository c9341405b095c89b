"""The network: encoders, the mixture of experts, losses, inference."""
