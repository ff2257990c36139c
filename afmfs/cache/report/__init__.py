"""What the fileset says of itself."""
