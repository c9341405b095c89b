"""The stage ``monitor_traffic``."""
