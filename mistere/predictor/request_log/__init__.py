"""The log of requests in the store, off by default; see :mod:`mistere.serving.request_log`."""
