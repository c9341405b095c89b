"""Train one modality's encoder of a student on the vectors and probabilities of its teacher's."""
