"""What an endpoint needs beside ``inference.py``: loading a model safely; shipped in the model archive."""
