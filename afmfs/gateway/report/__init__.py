"""Long answers that change nothing: verify, dry runs, trash lists."""
