"""The queue to home: batch after batch."""
