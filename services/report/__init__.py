"""A results folder as one page that can be sent around: it needs no connection and no service."""
