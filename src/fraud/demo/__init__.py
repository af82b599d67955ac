"""The demonstration: sample transactions, traffic through the API, and the story that ``make run`` tells."""
