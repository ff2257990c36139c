"""Programs that are run for events."""
