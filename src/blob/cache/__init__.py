"""The content-addressed store and what decides which bytes stay in it."""
