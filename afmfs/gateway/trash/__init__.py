"""What was moved aside at home: its book, and the ways back."""
