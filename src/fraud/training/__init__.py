"""What ``train.py`` is made of: rows, features, boosting, metrics, the champion on the same rows."""
