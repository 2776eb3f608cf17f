"""ASGI middleware: admission, errors, rate limits and load shedding."""
