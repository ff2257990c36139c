"""What the gateway says, and what the cache makes of it: outcomes, journals, trash."""
