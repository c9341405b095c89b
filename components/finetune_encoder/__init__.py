"""Fine-tune one modality's utterance encoder on the emotion labels."""
