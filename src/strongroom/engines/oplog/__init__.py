"""A durable log of the operations on a source whose engine has none: written by the process that makes them, read by who follows.

layout     how records lie in it, and how each is proven      folder    its files, and who still needs which
writer     how a record gets into it                          reader    how it is read from a place on
recording  one call at a time, its record durable             calls     where the engine keeps its own state: what is intended
feed       towards the journal                                          is recorded before the call, what came of it after
rows       changes as the bytes of a record                   opening   how the log is gone on with after a kill
gate       nobody calls while a source is read
"""
