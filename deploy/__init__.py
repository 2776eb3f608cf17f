"""What brings the service to where it runs: images, the Space, checks of both."""
