"""The prediction log: predictions are on the disk before the reply is sent."""
