"""From texts to predictions: micro-batches, the engine, the policy."""
