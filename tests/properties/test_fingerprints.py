"""Do equal rows have equal fingerprints, and does every change give another one?"""
