"""The web pages: the same jobs and results as the API's, for people."""
