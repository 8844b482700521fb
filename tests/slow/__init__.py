"""The tests that take minutes by their nature: `make test-slow`."""
