"""What happens to conversations on real calls: codecs, lost packets, noise, rooms, clipping, transcription errors, lost turns."""
