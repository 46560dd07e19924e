"""The room of metasrl for learning across tasks."""
