"""The OCI runtime specification as types, with validation and an exact JSON round trip."""
