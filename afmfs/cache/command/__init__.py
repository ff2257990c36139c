"""What administrators say, a command a module."""
