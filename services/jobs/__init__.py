"""The job table, who may use it, and the runner that measures what it holds."""
