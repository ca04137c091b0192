"""Network architectures that are written here rather than taken from a library."""
