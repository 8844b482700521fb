"""A small real model with a safety basin, to try visage on."""
