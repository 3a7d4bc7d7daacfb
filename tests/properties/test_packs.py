"""Do packs and the blob index give back what went in, and is every flipped byte found?"""
