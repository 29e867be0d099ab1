"""The OCI runtime: create, start, kill, delete and exec, and its command `vapp-oci`."""
