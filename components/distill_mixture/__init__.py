"""Train the mixture of a student on the probabilities and expert weights of its teacher's."""
