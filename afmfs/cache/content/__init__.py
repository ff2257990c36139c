"""The bytes of files: blobs, what of them is valid, when they are durable, and their recovery."""
