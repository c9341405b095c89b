"""Live audio: one conversation a stream, of which each turn is answered as it ends."""
