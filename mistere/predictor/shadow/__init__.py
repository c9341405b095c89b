"""Copies of requests to a shadow, whose answers are compared with those of this predictor."""
