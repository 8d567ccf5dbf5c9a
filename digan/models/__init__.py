"""The networks: generator and discriminators, and where they are loaded from and saved to."""
