"""The pool file: its schema, reading it in row blocks, checking it, writing it."""
