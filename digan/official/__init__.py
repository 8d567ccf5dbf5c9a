"""Reading the snapshots that the official implementation publishes, and converting their networks."""
