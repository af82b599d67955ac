"""The steps around the domain: what notebooks and the command line call."""
