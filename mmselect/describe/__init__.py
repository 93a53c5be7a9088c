"""What commands report, as data and for people: one file per report.

One dataclass per report: its fields are the JSON, and ``rows()`` is what people read, a sequence of
tables, each aligned on its own.
"""
