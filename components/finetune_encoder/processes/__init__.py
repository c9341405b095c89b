"""Training in several processes of one machine, through torchrun."""
