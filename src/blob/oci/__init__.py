"""What the OCI image and distribution specifications define, without any input or output."""
