"""The room of metasrl for solving one task."""
