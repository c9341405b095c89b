"""The dataset form: reading it, its DVC versions, differences between versions, audio and text."""
