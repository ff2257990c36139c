"""Home as a directory: reaching it, whose it is, verbs on its names, what its errors mean."""
