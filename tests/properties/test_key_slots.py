"""Does a key slot open for its own secret only, and is an altered one noticed?"""
