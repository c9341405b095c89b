"""Shares of live requests for a new model in Standard mode: the route that splits them, and the checks between its steps."""
