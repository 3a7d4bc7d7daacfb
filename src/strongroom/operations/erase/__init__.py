"""How is somebody forgotten, for good, and how is that shown?

run          the ledger says which rows never come back     shredding  a tenant's keys are destroyed, here and in every replica
certificate  shown to somebody who has no key
"""
