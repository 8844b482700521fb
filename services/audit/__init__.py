"""The batch audit: how do all checkpoints stand?"""
