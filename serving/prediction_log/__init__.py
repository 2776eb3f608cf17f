"""The prediction log: what was answered, stored durably before the reply."""
