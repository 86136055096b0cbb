"""Find the running system for a command, or start the embedded servers for its length."""
