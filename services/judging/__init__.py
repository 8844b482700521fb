"""Judges that are models or code of one's own: behind a URL, in an engine here, or in a Python package."""
