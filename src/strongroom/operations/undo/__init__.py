"""How is what a faulty ingest did taken back, while later good writes stay?

run  which operations are left out, and what that changes    neighbours  which answers to the sealed queries change
"""
