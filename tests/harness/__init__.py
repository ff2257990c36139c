"""What tests need to run the real programs: mounts, trees, servers."""
