"""The release gate: may this model be released?"""
