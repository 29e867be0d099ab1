"""Interfaces and uplinks of network namespaces."""
