"""The networks, generator and discriminators, and how a generator is found, loaded and saved."""
