"""Starts and watches a real Hearth for the end-to-end suites."""
