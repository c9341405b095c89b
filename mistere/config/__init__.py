"""The configuration: one section a stage is handed, one module a section, defaults there and nowhere else.

A stage imports its own section only, so that a new threshold of the gate changes no encoder's key.
"""
