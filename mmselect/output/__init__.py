"""A result as text or bytes: tables, files for other tools, and where it goes."""
