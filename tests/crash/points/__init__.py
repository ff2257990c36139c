"""Named moments at which either process can be killed; nothing of this is in the product."""
