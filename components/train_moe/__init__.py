"""Train the mixture of experts over dialogues."""
