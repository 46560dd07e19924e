"""Anytime-safe adaptation: what is asked, what is kept, what it costs."""
