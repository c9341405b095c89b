"""Traces of requests, off by default: how long each part of an answer took, sent to an OpenTelemetry collector."""
