"""What is this machine, and what does it remember of repositories? Nothing here is in a repository.

witness    which snapshots were the newest, which packs were proven, which are damaged    replicas  which copies there are
processor  who rounds otherwise                                                           pace      how fast it replays a journal
"""
