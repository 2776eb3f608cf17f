"""From a checkpoint to a sealed int8 bundle."""
