"""Do manifests and segments survive encoding, and is garbage always reported as damage?"""
