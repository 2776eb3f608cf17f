"""From texts to predictions: scheduler, batcher, engine, policy."""
