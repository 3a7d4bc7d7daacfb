"""How does a snapshot, or a moment of the journal, become a live database again?

run      staged beside the target, verified, put in its place   plan         which rung, why, and what it costs
files    the files of an exact restore                          rows         rows loaded into an engine that builds its own index
state    what is done already, of one that was killed           overlay      a moment where no engine can be told what changed
replay   what it answers to the sealed queries                  reshaping    rows in the shape of another engine
erased   which erasures concern it                              erased_rows  which rows may come back
snapshot_rows  the rows of a collection, wherever the snapshot keeps them
"""
