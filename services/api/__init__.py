"""The REST service: jobs in, VISAGE scores and grids out."""
