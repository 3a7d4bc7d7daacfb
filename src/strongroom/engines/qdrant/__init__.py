"""Qdrant: `edge` is its segment engine in the user's own process, `server` a server over REST, or the local mode of its client.

shape       what a configuration says of points, and the columns of their rows       conversion   points <-> rows
"""
