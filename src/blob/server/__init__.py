"""The registry's HTTP side."""
