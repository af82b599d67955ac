"""Fraud Loop: a fraud model that keeps itself honest.

Files directly in this package import the standard library only, so that a Lambda can carry all of them in a few
kilobytes; its folders (``pipeline``, ``localaws``, ``demo``) may import anything.
"""

__version__ = "0.1.0"
