"""The HTTP API: schemas, routes, and how routes are defined."""
