"""Containers as a user asks for them: image, bundle, start, logs, stop."""
