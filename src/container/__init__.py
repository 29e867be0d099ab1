"""Containers on Linux: runtime, images, networks and pods, with or without root."""
