"""Long answers that change nothing: verify and dry runs."""
