"""Does any secret, or any byte of the data in the clear, get where somebody else could read it?"""
