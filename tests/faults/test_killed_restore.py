"""Is a restore that is killed at any point either not begun, resumable or done, and does the plain command finish it?"""
