"""How do the changes of a source get into the journal?

run   followed as they come, sealed every few seconds     capture     recorded by the very process that makes them
scan  a source without a log, compared with what it was   scan_state  what the last scan found
"""
