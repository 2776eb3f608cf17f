"""The base model, its loss and its fine-tuning."""
