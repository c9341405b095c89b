"""Connections and their limits, so that clients that send slowly, or nothing, cannot keep others out; and limits on repeated log lines."""
