"""Other registries, as a client sees them."""
