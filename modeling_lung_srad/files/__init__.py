"""Recordings found on disk; tables, results and plots written to it."""
