"""Network architectures written here because no library has them."""
