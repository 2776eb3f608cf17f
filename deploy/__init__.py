"""Deployment: the container image, the Hugging Face Space, and the checks of both."""
