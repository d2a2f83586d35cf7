"""What build.py is made of: the standard library only, so that it starts alone."""
