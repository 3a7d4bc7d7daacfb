"""How does a source become a snapshot, and what of it need not be read or stored again?

run          freeze, read once, store packs, blob index, manifest    predecessor  what of earlier snapshots may be relied on
collection_reading  what is gathered while rows stream by             change_feed  what need not be read, as the engine says
tenant_reading      how rows get under the keys of their tenants
"""
