"""What does the journal of a source say: how far it is, what is in it, and what a moment of it is.

status   how far is each journal, and where are its holes?    batches  which ingest batches are in it?
moment   which snapshot and which operations make one?        replay   how does a staged snapshot go on to it?
"""
