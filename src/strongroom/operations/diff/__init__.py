"""What became of a source between two snapshots?

run  rows, catalog, lineage and files of the index plane    rows  which were added, changed, removed, and of which columns
"""
