"""Losses of the scores of images and prototypes."""
