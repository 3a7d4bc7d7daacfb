"""An index that is one file, and what lies beside it: what such engines have in common.

    place       which file a URL names, and which files beside it belong to it
    held        how they are held open as one moment
    sidecar     the table beside the index;  order, join: which of its records belongs to which vector
    array       the vectors once more, in a .npy file;  repeats: where a table holds them again
    exact       search of vectors that no index covers
    content     what an engine says of its own file
    frozen      rows, artifacts and answers of one moment;  describe: its catalog
    spill       rows to files that an engine builds from;  stage: how an index is put in place

No module here knows an engine.
"""
