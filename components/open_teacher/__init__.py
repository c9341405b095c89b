"""Take a released model apart: its encoders and its mixture as artifacts that steps read."""
