"""The commands: argv in, text out."""
